"""What a client is told that did something wrong: `application/problem+json` (RFC 9457).

A problem has what was expected, what was found and the fix, as the errors of all commands; where a
file of this machine is named, the client is told the part of its request instead.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from functools import partial
from http import HTTPStatus
from typing import Any

from starlette.responses import Response

from stem_complete.errors import BusyError, ConfigError, DataError, StemCompleteError, in_one_line

MEDIA_TYPE = "application/problem+json"
_LONGEST = 1000
_PATH = re.compile(r"(?<![\w.:/])/(?:[^\s/:;,'\"()<>]+/)+[^\s/:;,'\"()<>]*")


class Problem(Exception):  # noqa: N818 - as RFC 9457 calls it
    """A request that cannot be answered as the client wishes.

    Args:
        status: HTTP status.
        expected: What should have been sent.
        found: What was sent instead.
        fix: What the client can do.
        where: Part of the request, such as `body` or a parameter.
        retry_after_s: When it may be tried again [s]; None if that does not help.
    """

    def __init__(
        self,
        status: int,
        *,
        expected: str,
        found: str,
        fix: str,
        where: str = "request",
        retry_after_s: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.status, self.where = status, where
        self.expected, self.found, self.fix = map(_short, (expected, found, fix))
        self.retry_after_s, self.headers = retry_after_s, dict(headers or {})
        super().__init__(f"{where}: expected {self.expected}, found {self.found}; {self.fix}")

    def __reduce__(self) -> tuple[object, ...]:
        # Pickle rebuilds exceptions from `args`, and this one takes keywords.
        parts: dict[str, Any] = {"expected": self.expected, "found": self.found, "fix": self.fix}
        parts |= {"where": self.where, "retry_after_s": self.retry_after_s, "headers": self.headers}
        return partial(type(self), self.status, **parts), ()

    def response(self, request_id: str) -> Response:
        """The answer."""
        title = HTTPStatus(self.status).phrase
        content: dict[str, Any] = {
            "type": "about:blank",
            "title": title,
            "status": self.status,
            "detail": str(self),
            "where": self.where,
            "expected": self.expected,
            "found": self.found,
            "fix": self.fix,
            "request_id": request_id,
        }
        headers = dict(self.headers)
        if self.retry_after_s is not None:
            headers["Retry-After"] = str(max(1, math.ceil(self.retry_after_s)))
        return Response(json.dumps(content), self.status, headers, MEDIA_TYPE)


def problem_of(error: Exception, where: str = "body") -> Problem:
    """What the client is told of any error; nothing of what only we can mend."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, DataError | ConfigError):
        status = HTTPStatus.UNPROCESSABLE_ENTITY
        return Problem(
            status,
            expected=_public(error.expected),
            found=_public(error.found),
            fix=_public(_for_api(error.fix)),
            where=where,
        )
    if isinstance(error, BusyError):
        return Problem(
            HTTPStatus.CONFLICT,
            expected="nobody else at work on it",
            found="another process",
            fix="try again in a moment",
            where=where,
            retry_after_s=5,
        )
    if isinstance(error, MemoryError):
        return too_busy(
            "a scan that fits in the memory that is free",
            "too little of it",
            30,
            "try again later, or send a smaller scan",
            where,
        )
    told = type(error).__name__ if isinstance(error, StemCompleteError) else "an error"
    return Problem(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        expected="an answer",
        found=f"{told} in the service",
        fix="report it with the request id to whoever runs this service",
        where=where,
    )


def too_large(expected: str, found: str, where: str = "body") -> Problem:
    """Refuses what is larger than the limits."""
    return Problem(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        expected=expected,
        found=found,
        fix="send a smaller scan, or use the command `stem-complete complete`",
        where=where,
    )


def too_busy(
    expected: str,
    found: str,
    retry_after_s: float,
    fix: str = "try again later",
    where: str = "request",
) -> Problem:
    """Refuses what can be done later."""
    return Problem(
        HTTPStatus.SERVICE_UNAVAILABLE,
        expected=expected,
        found=found,
        fix=fix,
        where=where,
        retry_after_s=retry_after_s,
    )


def not_found(what: str, fix: str, where: str = "path") -> Problem:
    """Tells that there is no such job, scan or example, or none any more."""
    return Problem(HTTPStatus.NOT_FOUND, expected=what, found="none", fix=fix, where=where)


def bad(expected: str, found: str, fix: str, where: str = "body") -> Problem:
    """Refuses what makes no sense."""
    return Problem(
        HTTPStatus.UNPROCESSABLE_ENTITY, expected=expected, found=found, fix=fix, where=where
    )


def _for_api(fix: str) -> str:
    """Options of the command as the parameters of the request that they are here."""
    return re.sub(r"--([a-z][a-z-]*)", lambda match: f"`{match[1].replace('-', '_')}`", fix)


def _public(text: str) -> str:
    """Without paths of this machine."""
    return _PATH.sub("the body", text)


def _short(text: str) -> str:
    """In one line, and not too long."""
    line = in_one_line(" ".join(text.split()))
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 3]}..."
