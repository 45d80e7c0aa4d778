"""Routes of jobs: made, filled, started, watched, fetched, removed."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from anyio import to_thread
from fastapi import APIRouter, Query, Request, Response
from pydantic import Field
from starlette.responses import FileResponse, JSONResponse, StreamingResponse

from stem_complete.inference.image_files import is_ome_zarr
from stem_complete.serving.service.bodies import read_body, spool
from stem_complete.serving.service.completions import BINARY, COMPLETION, SCAN_BODY, answer
from stem_complete.serving.service.job_results import completed, zipped
from stem_complete.serving.service.media import JSON, NPY, PNG, TIFF, ZIP, negotiated
from stem_complete.serving.service.problems import not_found
from stem_complete.serving.service.queries import ReadQuery, ShowQuery
from stem_complete.serving.service.state import state_of

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

_TYPES = {".tif": TIFF, ".npy": NPY, ".json": JSON, ".png": PNG, ".jsonl": "application/jsonl"}


class JobQuery(ReadQuery):
    """How the scans of a job are read, completed and written."""

    format: Literal["tiff", "npy", "ome-zarr"] = Field("tiff", description="Of the results.")
    png: bool = Field(False, description="Also write previews.")


@router.post("", status_code=201)
async def make(request: Request, query: Annotated[JobQuery, Query()]) -> JSONResponse:
    """Makes a job, to which scans are then sent."""
    state = state_of(request)
    make = partial(state.jobs.make, query.how, query.options, query.format, png=query.png)
    job = await to_thread.run_sync(make)
    told = await to_thread.run_sync(state.jobs.told, job)
    return JSONResponse(told, 201, {"Location": f"/v1/jobs/{job.id}"})


@router.put("/{job_id}/scans/{name}", openapi_extra=SCAN_BODY, status_code=201)
async def add(request: Request, job_id: str, name: str) -> JSONResponse:
    """Sends a scan, as for `/v1/complete`; sent again, it takes the place of the one before."""
    state = state_of(request)
    job = state.jobs.find(job_id)
    await state.check_room()
    async with state.place():
        with state.incoming() as folder:
            body = await spool(request, folder, name)

            def take() -> bool:
                scan = read_body(body, job.options, state.limits)
                return job.add(name, body, scan, state.limits)

            is_new = await to_thread.run_sync(take, limiter=state.readers)
    return JSONResponse({"job": job.id, "name": name}, 201 if is_new else 200)


@router.post("/{job_id}/start", status_code=202)
async def start(request: Request, job_id: str) -> dict[str, Any]:
    """Puts a job into the queue."""
    state = state_of(request)
    job = state.jobs.find(job_id)
    await to_thread.run_sync(job.start)
    state.look()
    return await to_thread.run_sync(state.jobs.told, job)


@router.get("/{job_id}")
async def status(request: Request, job_id: str) -> dict[str, Any]:
    """State, place in the queue, progress, and what is completed so far."""
    state = state_of(request)
    return await to_thread.run_sync(state.jobs.told, state.jobs.find(job_id))


@router.post("/{job_id}/cancel")
async def cancel(request: Request, job_id: str) -> dict[str, Any]:
    """Ends a job after the scan that is under way; what is completed can still be fetched."""
    state = state_of(request)
    job = state.jobs.find(job_id)
    await to_thread.run_sync(job.cancel)
    return await to_thread.run_sync(state.jobs.told, job)


@router.delete("/{job_id}", status_code=204)
async def remove(request: Request, job_id: str) -> Response:
    """Ends a job, and removes all of it."""
    job = state_of(request).jobs.find(job_id)
    await to_thread.run_sync(job.cancel)
    await to_thread.run_sync(job.remove)
    return Response(status_code=204)


@router.get(
    "/{job_id}/results/{name}",
    response_class=Response,
    responses={200: {"content": {key: {} for key in (TIFF, NPY, ZIP, JSON, PNG)}}},
)
async def result(request: Request, job_id: str, name: str) -> Response:
    """A result, as soon as it is there; an OME-Zarr comes as ZIP."""
    job = state_of(request).jobs.find(job_id)
    found = (await to_thread.run_sync(job.results)).get(name)
    if found is None:
        raise not_found("a result of this job", "see `results` of the job")
    if is_ome_zarr(found):
        return _as_zip(f"{found.name}.zip", [found])
    media = _TYPES.get(found.suffix, "application/octet-stream")
    return FileResponse(found, media_type=media, filename=found.name)


@router.get(
    "/{job_id}/results",
    response_class=Response,
    responses={200: {"content": {ZIP: BINARY}}},
)
async def results(request: Request, job_id: str) -> Response:
    """All results that are there, as a ZIP."""
    job = state_of(request).jobs.find(job_id)
    found = await to_thread.run_sync(job.results)
    if not found:
        raise not_found("results of this job", "wait for the first, or see `failed` of the job")
    return _as_zip(f"{job.id[:8]}.zip", found.values())


@router.get(
    "/{job_id}/scans/{name}",
    response_class=Response,
    responses=COMPLETION,
)
async def completion(
    request: Request, job_id: str, name: str, query: Annotated[ShowQuery, Query()]
) -> Response:
    """The completion of a scan, as soon as it is there, in any format, as of `/v1/complete`."""
    state = state_of(request)
    media = negotiated(request.headers.get("accept", ""))
    job = state.jobs.find(job_id)
    read = partial(completed, job, name, state.limits)
    async with state.place():
        done = await to_thread.run_sync(read, limiter=state.readers)
        return await answer(state, done, job.how, media, query.show)


def _as_zip(name: str, files: Iterable[Path]) -> Response:
    named = {"Content-Disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(zipped(files), headers=named, media_type=ZIP)
