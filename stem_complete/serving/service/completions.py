"""Routes of single scans, of the model, and of the examples that come with the package."""

from __future__ import annotations

from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from anyio import to_thread
from fastapi import APIRouter, Query, Request, Response
from starlette.responses import JSONResponse

import stem_complete
from stem_complete.data.about import plain
from stem_complete.data.bundled import published_triples
from stem_complete.data.formats.micrographs import read_file
from stem_complete.data.formats.published import read_published_scan
from stem_complete.inference.sources import called, described
from stem_complete.serving.service.answers import encoded, in_header, npz
from stem_complete.serving.service.bodies import read_body, spool
from stem_complete.serving.service.completing import Done, How, Task
from stem_complete.serving.service.media import (
    ANSWERS,
    FORM,
    JSON,
    NPZ,
    SUFFIXES,
    ZIP,
    negotiated,
)
from stem_complete.serving.service.problems import not_found
from stem_complete.serving.service.queries import CompleteQuery, ReadQuery
from stem_complete.serving.service.state import State, state_of, unless_hung_up

router = APIRouter(prefix="/v1")

BINARY = {"schema": {"type": "string", "format": "binary"}}
"""What OpenAPI tells of content that is no JSON."""

SCAN_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "One scan. An image has NaN or one constant where it was not measured; or "
        "two pages or arrays, intensities and dwell map; or, in NPZ or HDF5, `intensity` and "
        "`dwell`. Samples have columns or arrays x, y, intensity and perhaps dwell and t. A form "
        "has `scan` and perhaps `dwell` or `path`.",
        "content": {
            **dict.fromkeys(SUFFIXES, BINARY),
            FORM: {
                "schema": {
                    "type": "object",
                    "required": ["scan"],
                    "properties": dict.fromkeys(("scan", "dwell", "path"), BINARY["schema"]),
                }
            },
        },
    }
}
"""What OpenAPI tells of bodies that hold a scan."""

COMPLETION: dict[int | str, dict[str, Any]] = {
    200: {"description": "The completion.", "content": dict.fromkeys(ANSWERS, BINARY)}
}


@router.post("/complete", openapi_extra=SCAN_BODY, responses=COMPLETION, response_class=Response)
async def complete(request: Request, query: Annotated[CompleteQuery, Query()]) -> Response:
    """Completes one scan.

    The answer is in the format that `Accept` asks for; the header `Stem-Complete-About` says of
    formats that cannot what NPZ and JSON have in themselves.
    """
    state = state_of(request)
    media = negotiated(request.headers.get("accept", ""))
    async with state.place():
        task = await received(request, query, state, query.name)
        done = await unless_hung_up(request, state.complete(task))
        return await answer(state, done, query.how, media, query.show)


async def received(request: Request, query: ReadQuery, state: State, name: str = "") -> Task:
    """The scan of a request, read in a thread."""
    with state.incoming() as folder:
        body = await spool(request, folder, name)
        read = partial(read_body, body, query.options, state.limits)
        scan = await to_thread.run_sync(read, limiter=state.readers)
    if body.name:
        scan.where = Path(body.name.replace("\\", "/")).name
    return Task(scan, query.how)


async def answer(
    state: State,
    done: Done,
    how: How,
    media: str,
    show: Any = "image",
    headers: dict[str, str] | None = None,
) -> Response:
    """A completion as an answer, encoded in a thread."""
    encode = partial(encoded, done, how, media, show)
    content, told = await to_thread.run_sync(encode, limiter=state.readers)
    about = {} if media == JSON else {"Stem-Complete-About": in_header(told)}
    suffix = {ZIP: ".ome.zarr.zip", JSON: ".json"}.get(media) or SUFFIXES[media]
    named = {"Content-Disposition": f'attachment; filename="completed{suffix}"'}
    return Response(content, 200, about | named | (headers or {}), media)


@router.get("/health")
async def health() -> dict[str, str]:
    """Whether this process answers."""
    return {"status": "ok", "version": stem_complete.__version__}


@router.get("/ready")
async def ready(request: Request) -> dict[str, str]:
    """Whether a completer is ready: 503 if none is."""
    card = await state_of(request).card()
    return {"status": "ready", "model": called(card)}


@router.get("/model")
async def model(request: Request) -> JSONResponse:
    """The card of the model that completes scans now."""
    card = await state_of(request).card()
    told: dict[str, Any] = {
        "name": called(card),
        "recipe": card.recipe,
        "coverages": sorted({card.coverage, *card.more_coverages}),
        "has_error_map": card.calibration is not None,
        "metrics": card.metrics,
        "training_data": [source.model_dump() for source in card.training_data],
        "versions": card.versions,
        "weights_sha256": card.weights_sha256,
        "card": described(card),
    }
    return JSONResponse(plain(told))


@router.get("/examples")
async def examples() -> list[dict[str, Any]]:
    """The real scans that come with the package: published spirals of partial-STEM."""
    return [
        {
            "name": name,
            "title": f"Published spiral {name}, coverage 1/20",
            "source": "Jeffrey-Ede/partial-STEM, MIT",
            "shape": [512, 512],
            "scan": f"/v1/examples/{name}",
        }
        for name in _EXAMPLES
    ]


@router.get(
    "/examples/{name}",
    responses={200: {"content": {NPZ: BINARY}}},
    response_class=Response,
)
async def example(name: str) -> Response:
    """One of them as NPZ: `intensity`, NaN where not measured, `dwell`, and `truth` to compare.

    It can be sent to `/v1/complete` as it is.
    """
    if name not in _EXAMPLES:
        raise not_found(f"one of the examples {', '.join(_EXAMPLES)}", "see /v1/examples")
    content = await to_thread.run_sync(_example, name)
    return Response(content, media_type=NPZ, headers={"Cache-Control": "max-age=86400"})


_EXAMPLES = {str(number): triple for number, triple in enumerate(published_triples(), 1)}


@lru_cache(len(_EXAMPLES))
def _example(name: str) -> bytes:
    triple = _EXAMPLES[name]
    scan = read_published_scan(triple.scan, triple.dwell)
    truth = read_file(triple.truth).micrographs[0].pixels  # in [0, 1]
    return npz(
        {
            "intensity": scan.intensity.astype(np.float32),
            "dwell": scan.dwell,
            "truth": (2 * truth - 1).astype(np.float32),
        }
    )
