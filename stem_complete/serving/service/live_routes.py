"""Routes of live scans: begun, fed with chunks, looked at, finished."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse, StreamingResponse

from stem_complete.data.formats.samples import image_shape
from stem_complete.data.formats.scans import positions_of, read_path
from stem_complete.data.scan_options import ScanOptions
from stem_complete.scan import ScanPath
from stem_complete.serving.service.announced import check_announced
from stem_complete.serving.service.bodies import read_apart, spool
from stem_complete.serving.service.completing import How
from stem_complete.serving.service.completions import COMPLETION, SCAN_BODY, answer
from stem_complete.serving.service.events import KEEP_ALIVE, event
from stem_complete.serving.service.limits import Limits, check_pixels
from stem_complete.serving.service.live import LiveScan, LiveSettings
from stem_complete.serving.service.media import BYTES, EVENTS, HDF5, SUFFIXES, negotiated
from stem_complete.serving.service.problems import Problem, problem_of, too_large
from stem_complete.serving.service.queries import HowQuery, ShowQuery
from stem_complete.serving.service.state import state_of, unless_hung_up

router = APIRouter(prefix="/v1/scans", tags=["live"])

LOOK_S = 0.25
"""Pause between looks for chunks that another process took; of its own each process knows."""

_KEEP_ALIVE_S, _AGAIN_S = 15.0, 1.0
_MOST_CHUNK_BYTES = 16 * 2**20
_CHUNK_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {BYTES: {"schema": {"type": "string", "format": "binary"}}},
    }
}


class PreviewQuery(HowQuery):
    """What is to be found of a live scan; a self-check takes longer than completing."""

    self_check: bool = Field(False, description="Predict held-out parts of the scan.")


class ShownQuery(PreviewQuery, ShowQuery):
    """Parameters of a preview."""


class Finish(BaseModel):
    """The end of a scan."""

    model_config = ConfigDict(extra="forbid")

    chunks: int = Field(gt=0, description="How many chunks were sent.")


@router.post("", status_code=201)
async def begin(request: Request, settings: LiveSettings) -> JSONResponse:
    """Begins a live scan."""
    state = state_of(request)
    await state.check_room()
    scan = await to_thread.run_sync(state.live.begin, settings)
    told = await to_thread.run_sync(scan.told, state.limits)
    return JSONResponse(told, 201, {"Location": f"/v1/scans/{scan.id}"})


@router.get("")
async def listed(request: Request) -> list[dict[str, Any]]:
    """All live scans that are kept, the one that changed last first."""
    state = state_of(request)

    def told() -> list[dict[str, Any]]:
        scans = sorted(state.live.all(), key=LiveScan.changed_s, reverse=True)
        return [scan.told(state.limits) for scan in scans]

    return await to_thread.run_sync(told)


@router.put("/{scan_id}/path", openapi_extra=SCAN_BODY, status_code=204)
async def set_path(request: Request, scan_id: str) -> Response:
    """Says where the probe goes: x, y and perhaps dwell, as `stem-complete scan` writes them."""
    state = state_of(request)
    scan = state.live.find(scan_id)
    with state.incoming() as folder:
        body = await spool(request, folder)

        def take() -> None:
            try:
                wanted = (body.scan, scan.settings, state.limits)
                is_hdf5 = body.scan.suffix == SUFFIXES[HDF5]
                scan.set_path(read_apart(_path, *wanted) if is_hdf5 else _path(*wanted))
            except Exception as error:
                raise problem_of(error, "path") from error

        await to_thread.run_sync(take, limiter=state.readers)
    return Response(status_code=204)


def _path(file: Path, settings: LiveSettings, limits: Limits) -> ScanPath:
    """The path in a file, checked as scans are."""
    media = {suffix: media for media, suffix in SUFFIXES.items()}[file.suffix]
    check_announced(file, media, limits)
    positions = positions_of(file)
    shape = None if "shape" in positions.metadata else settings.shape
    check_pixels(image_shape(positions, ScanOptions(shape=shape), file.name), limits)
    return read_path(file, shape)


@router.put("/{scan_id}/chunks/{number}", openapi_extra=_CHUNK_BODY, status_code=201)
async def put(
    request: Request, scan_id: str, number: int, first: Annotated[int | None, Query()] = None
) -> JSONResponse:
    """Sends samples: rows of float32, little endian, in the scan's columns.

    Chunks may come in any order and again; one that differs from the one before is refused.
    """
    state = state_of(request)
    scan = state.live.find(scan_id)
    await state.check_room()
    content = bytearray()
    async for block in request.stream():
        content += block
        if len(content) > _MOST_CHUNK_BYTES:
            raise too_large(f"chunks of at most {_MOST_CHUNK_BYTES} bytes", "a larger one")
    put = partial(scan.put, number, first, bytes(content), state.limits)
    is_new = await to_thread.run_sync(put)
    state.tell_news()
    return JSONResponse({"number": number, "new": is_new}, 201 if is_new else 200)


@router.get("/{scan_id}")
async def status(request: Request, scan_id: str) -> dict[str, Any]:
    """What is there of a scan, and which chunks are missing."""
    state = state_of(request)
    return await to_thread.run_sync(state.live.find(scan_id).told, state.limits)


@router.get("/{scan_id}/preview", responses=COMPLETION, response_class=Response)
async def preview(
    request: Request, scan_id: str, query: Annotated[ShownQuery, Query()]
) -> Response:
    """The completion of what is there so far; `ETag` is the number of chunks that it has."""
    state = state_of(request)
    media = negotiated(request.headers.get("accept", ""))
    scan = state.live.find(scan_id)
    known = request.headers.get("if-none-match", "").strip('"')
    if known and known == str(await to_thread.run_sync(scan.version)):
        return Response(status_code=304, headers={"ETag": f'"{known}"'})
    await request.body()
    async with state.place():
        found = await unless_hung_up(request, state.previews.newest(scan, query.how))
        tag = {"ETag": f'"{found.version}"'}
        return await answer(state, found.done, query.how, media, query.show, tag)


@router.get(
    "/{scan_id}/events",
    responses={200: {"content": {EVENTS: {"schema": {"type": "string"}}}}},
    response_class=StreamingResponse,
)
async def events(
    request: Request, scan_id: str, query: Annotated[PreviewQuery, Query()]
) -> StreamingResponse:
    """Server-sent events: `preview` whenever a newer one can be fetched, then `finished`.

    Of chunks that come while one is made, the next preview has all.
    """
    state = state_of(request)
    scan = state.live.find(scan_id)
    return StreamingResponse(_events(request, scan, query.how), media_type=EVENTS)


async def _events(request: Request, scan: LiveScan, how: How) -> AsyncIterator[bytes]:
    state = state_of(request)
    last, silent_since_s = -1, time.monotonic()
    while not state.stopping.is_set():
        if not scan.folder.exists():
            yield event("removed", {})
            return
        news = state.news
        # Finished before looked at: what is there then is all.
        is_finished = scan.num_expected is not None
        version = await asyncio.to_thread(scan.version)
        if version != last and version:
            try:
                found = await state.previews.newest(scan, how)
            except Problem as problem:
                if problem.retry_after_s is not None:  # completers are busy
                    await asyncio.sleep(_AGAIN_S)
                    continue
                last = version  # too little is there yet
                yield event("waiting", {"version": version, "why": str(problem)}, version)
            else:
                last = found.version
                yield event("preview", _told(scan, found), last)
            silent_since_s = time.monotonic()
        elif is_finished:
            yield event("finished", {"version": version}, version)
            return
        elif time.monotonic() - silent_since_s > _KEEP_ALIVE_S:
            silent_since_s = time.monotonic()
            yield KEEP_ALIVE
        else:
            with suppress(TimeoutError):
                await asyncio.wait_for(news.wait(), LOOK_S)


def _told(scan: LiveScan, found: Any) -> dict[str, Any]:
    return {
        "version": found.version,
        "coverage": found.done.completed.scan.coverage,
        "seconds": round(found.seconds, 4),
        "preview": f"/v1/scans/{scan.id}/preview",
    }


@router.post("/{scan_id}/finish")
async def finish(request: Request, scan_id: str, end: Finish) -> dict[str, Any]:
    """Says how many chunks there were: 409 with those that are missing, or the scan is whole."""
    state = state_of(request)
    scan = state.live.find(scan_id)
    await to_thread.run_sync(scan.finish, end.chunks)
    return await to_thread.run_sync(scan.told, state.limits)


@router.delete("/{scan_id}", status_code=204)
async def remove(request: Request, scan_id: str) -> Response:
    """Removes a scan with all its chunks."""
    scan = state_of(request).live.find(scan_id)
    await to_thread.run_sync(scan.remove)
    return Response(status_code=204)
