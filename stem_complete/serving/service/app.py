"""The application: routes behind the gate, for any server that speaks ASGI."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.staticfiles import StaticFiles

import stem_complete
from stem_complete.errors import in_one_line
from stem_complete.serving.service import completions, job_routes, live_routes, metrics
from stem_complete.serving.service.completing import Completing
from stem_complete.serving.service.gate import Gate
from stem_complete.serving.service.job_runner import JobRunner
from stem_complete.serving.service.limits import Limits
from stem_complete.serving.service.problems import MEDIA_TYPE, Problem, problem_of
from stem_complete.serving.service.state import HungUpError, State, state_of

PAGE = Path(__file__).parent / "page"
CLIENT_CLOSED_REQUEST = 499
"""As nginx calls a client that hung up; it does not see it any more."""

_PROBLEM: dict[str, Any] = {
    "description": "A problem: expected, found and fix (RFC 9457).",
    "content": {MEDIA_TYPE: {"schema": {"type": "object"}}},
}


def make_app(
    completing: Completing,
    storage: Path,
    *,
    precision: str = "float32",
    limits: Limits | None = None,
    token_hashes: Sequence[str] = (),
    hosts: Sequence[str] | None = None,
) -> FastAPI:
    """The application.

    All state is in `storage`, so that any process may answer any request.

    Args:
        completing: Who completes scans.
        storage: Folder of jobs and live scans.
        precision: In which it completes, which results of jobs tell.
        limits: What is taken.
        token_hashes: As of `Gate`.
        hosts: As of `Gate`.
    """
    state = State(completing, storage, limits or Limits())

    @asynccontextmanager
    async def running(_app: FastAPI) -> AsyncIterator[None]:
        storage.mkdir(parents=True, exist_ok=True)
        state.runner = JobRunner(state.jobs, completing, precision, state.metrics, state.sweep)
        try:
            yield
        finally:
            state.stopping.set()
            await state.runner.stop()

    app = FastAPI(
        title="stem-complete",
        version=stem_complete.__version__,
        summary="Completes partial scans of scanning transmission electron microscopes.",
        lifespan=running,
        openapi_url="/v1/openapi.json",
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
        responses={"4XX": _PROBLEM, "5XX": _PROBLEM},
    )
    app.state.service = state
    app.include_router(completions.router)
    app.include_router(job_routes.router)
    app.include_router(live_routes.router)
    app.add_api_route("/metrics", _metrics, response_class=Response, tags=["operation"])
    app.mount("/", StaticFiles(directory=PAGE, html=True))
    for error, handler in _HANDLERS.items():
        app.add_exception_handler(error, handler)
    app.add_middleware(
        Gate,
        limits=state.limits,
        metrics=state.metrics,
        token_hashes=token_hashes,
        hosts=hosts,
    )
    return app


async def _metrics(request: Request) -> Response:
    """Figures for Prometheus."""
    return Response(state_of(request).metrics.text(), media_type=metrics.MEDIA_TYPE)


async def _problem(request: Request, error: Exception) -> Response:
    return problem_of(error).response(request.state.request_id)


async def _http(request: Request, error: Exception) -> Response:
    """What the framework refuses, such as an unknown path, as a problem."""
    assert isinstance(error, HTTPException)
    problem = Problem(
        error.status_code,
        expected="a method and path of this service",
        found=f"{request.method} {request.url.path[:200]}: {error.detail}",
        fix="see /v1/openapi.json",
        headers=error.headers,
    )
    return problem.response(request.state.request_id)


async def _invalid(request: Request, error: Exception) -> Response:
    """A parameter that makes no sense."""
    assert isinstance(error, RequestValidationError)
    first, *_ = error.errors()
    is_unknown = first["type"] == "extra_forbidden"
    problem = Problem(
        422,
        expected="a parameter of this path" if is_unknown else in_one_line(str(first["msg"])),
        found=in_one_line(repr(first.get("input"))[:200]),
        fix="see /v1/openapi.json",
        where=in_one_line(".".join(map(str, first["loc"]))[:200]),
    )
    return problem.response(request.state.request_id)


async def _hung_up(_request: Request, _error: Exception) -> Response:
    return Response(status_code=CLIENT_CLOSED_REQUEST)


_HANDLERS = {
    Problem: _problem,
    HTTPException: _http,
    RequestValidationError: _invalid,
    HungUpError: _hung_up,
    ClientDisconnect: _hung_up,
}
