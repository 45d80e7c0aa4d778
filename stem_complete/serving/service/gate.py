"""What every request passes: who asks, how often, how much; and what every answer carries.

Plain ASGI, so that bodies are counted as they come, and streams are not held up.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Sequence
from http import HTTPStatus

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stem_complete.console import format_bytes
from stem_complete.serving.service.access import Rate, is_known, new_id
from stem_complete.serving.service.limits import Limits
from stem_complete.serving.service.logs import LOG
from stem_complete.serving.service.metrics import Metrics
from stem_complete.serving.service.problems import Problem, problem_of, too_large

log = logging.getLogger(LOG)

OPEN = ("/v1/health", "/v1/ready", "/v1/openapi.json")
"""Paths below /v1 that need no token: they show nothing of anybody's."""

_ONE_SCAN = "/v1/complete"
_API = ("/v1/", "/metrics")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SECURITY = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Gate:
    """Lets requests through to an application.

    Args:
        app: The application.
        limits: Of bodies and rates.
        metrics: What is counted.
        token_hashes: Of those who may ask; none: everybody who reaches this machine.
        hosts: Names by which it may be called, None: any. Without tokens they keep web pages away
            that point a name of their own at this machine.
    """

    def __init__(
        self,
        app: ASGIApp,
        limits: Limits,
        metrics: Metrics,
        token_hashes: Sequence[str] = (),
        hosts: Sequence[str] | None = None,
    ) -> None:
        self.app, self.limits, self.metrics = app, limits, metrics
        self.token_hashes, self.hosts = token_hashes, hosts
        self._rate = Rate(limits.requests_per_s, limits.burst)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else new_id()
        scope.setdefault("state", {})["request_id"] = request_id
        began_s = time.monotonic()
        answer = _Answer(send, request_id)
        holds_scan = scope["method"] == "PUT" or scope["path"] == _ONE_SCAN
        most = self.limits.body_bytes if holds_scan else self.limits.text_bytes
        body = _CountedBody(receive, self.limits, most)
        try:
            self._check(scope, headers, most)
            await self.app(scope, body.receive, answer.send)
        except Problem as problem:
            await answer.problem(problem, scope, receive)
        except Exception as error:
            log.exception("failed", extra={"fields": {"request_id": request_id}})
            await answer.problem(problem_of(error), scope, receive)
        finally:
            seconds = time.monotonic() - began_s
            route = getattr(scope.get("route"), "path", "other")
            status = answer.status or 499  # as nginx calls a client that hung up
            self.metrics.answered(scope["method"], route, status, seconds)
            fields = {
                "request_id": request_id,
                "method": scope["method"],
                "route": route,
                "status": status,
                "seconds": round(seconds, 4),
                "bytes_in": body.num_bytes,
                "bytes_out": answer.num_bytes,
                "client": _client(scope),
            }
            log.info("request", extra={"fields": fields})

    def _check(self, scope: Scope, headers: Headers, most_bytes: int) -> None:
        """Refuses who may not ask, or not so often, or not so much."""
        host = headers.get("host", "")
        if self.hosts is not None and _name(host) not in self.hosts:
            raise Problem(
                HTTPStatus.MISDIRECTED_REQUEST,
                expected=f"a request to {' or '.join(self.hosts)}",
                found=f"one to {_name(host)[:100]!r}",
                fix="call this service by one of these names",
                where="Host",
            )
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            raise Problem(
                HTTPStatus.FORBIDDEN,
                expected="requests of this service's own page, or of programs",
                found="one of another web page",
                fix="use a program, or this service's page",
                where="Origin",
            )
        path, client = scope["path"], _client(scope)
        scheme, _, token = headers.get("authorization", "").partition(" ")
        is_user = scheme.lower() == "bearer" and is_known(token.strip(), self.token_hashes)
        # Users may share an address, such as that of a reverse proxy.
        if wait_s := self._rate.wait_s(token if is_user else client):
            raise Problem(
                HTTPStatus.TOO_MANY_REQUESTS,
                expected=f"at most {self.limits.requests_per_s:g} requests a second",
                found="more",
                fix="send them more slowly, or as one job",
                retry_after_s=wait_s,
            )
        if self.token_hashes and path.startswith(_API) and path not in OPEN and not is_user:
            raise Problem(
                HTTPStatus.UNAUTHORIZED,
                expected="the header Authorization: Bearer TOKEN",
                found="another token" if token else "none",
                fix="ask whoever runs this service for a token",
                where="Authorization",
                headers={"WWW-Authenticate": "Bearer"},
            )
        announced = headers.get("content-length", "0")
        if not announced.isascii() or not announced.isdigit():
            raise Problem(
                HTTPStatus.BAD_REQUEST,
                expected="a number",
                found="something else",
                fix="leave it to the client library",
                where="Content-Length",
            )
        if int(announced[:20]) > most_bytes:
            raise _body_too_large(most_bytes)


class _CountedBody:
    """A body that is ended when it is too large, or does not come on."""

    def __init__(self, receive: Receive, limits: Limits, most_bytes: int) -> None:
        self._receive, self._limits, self._most_bytes = receive, limits, most_bytes
        self._end_s = time.monotonic() + limits.body_s
        self._is_whole = False
        self.num_bytes = 0

    async def receive(self) -> Message:
        """The next part.

        Raises:
            Problem: 413 or 408.
        """
        if self._is_whole:
            return await self._receive()
        left_s = min(self._limits.body_idle_s, self._end_s - time.monotonic())
        try:
            async with asyncio.timeout(left_s):
                message = await self._receive()
        except TimeoutError:
            raise Problem(
                HTTPStatus.REQUEST_TIMEOUT,
                expected=f"a body that comes on, within {self._limits.body_s:g} s",
                found="one that is too slow",
                fix="send it again, or over a better line",
                where="body",
            ) from None
        self.num_bytes += len(message.get("body", b""))
        self._is_whole = not message.get("more_body", False)
        if self.num_bytes > self._most_bytes:
            raise _body_too_large(self._most_bytes)
        return message


class _Answer:
    """An answer with the headers that all have."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send, self._request_id = send, request_id
        self.status = 0
        self.num_bytes = 0

    async def send(self, message: Message) -> None:
        """Sends the next part."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-Id"] = self._request_id
            headers.setdefault("Cache-Control", "no-store")
            for name, value in _SECURITY.items():
                headers.setdefault(name, value)
        self.num_bytes += len(message.get("body", b""))
        await self._send(message)

    async def problem(self, problem: Problem, scope: Scope, receive: Receive) -> None:
        """Tells of a problem, unless the answer has begun, which the client then sees end."""
        if not self.status:
            await problem.response(self._request_id)(scope, receive, self.send)


def _body_too_large(most_bytes: int) -> Problem:
    return too_large(f"a body of at most {format_bytes(most_bytes)}", "a larger one")


def _client(scope: Scope) -> str:
    client = scope.get("client")
    return client[0] if client else ""


def _name(host: str) -> str:
    """The name in `name:port`, `[::1]:port`."""
    return host.rpartition("]")[0].lstrip("[") if "]" in host else host.partition(":")[0].lower()
