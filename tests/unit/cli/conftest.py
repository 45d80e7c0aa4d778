"""Runs commands in this process, with the function that each one calls replaced."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from stem_complete.cli import main


class Done(NamedTuple):
    """How a command ended."""

    code: int
    output: str
    error: str


class Call(NamedTuple):
    """How a function was called."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@pytest.fixture(autouse=True)
def logging_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(logging, "basicConfig", lambda **_: None)
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    yield
    logging.captureWarnings(False)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    def run(*arguments: object) -> Done:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return Done(int(ended.value.code or 0), printed.out, printed.err)

    return run


@pytest.fixture
def replaced(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Call]]:
    """Replaces a function by one that notes its calls and returns or raises `result`."""

    def replace(path: str, result: object = None) -> list[Call]:
        calls: list[Call] = []

        def note(*args: object, **kwargs: object) -> object:
            calls.append(Call(args, kwargs))
            if isinstance(result, BaseException):
                raise result
            return result

        monkeypatch.setattr(path, note)
        return calls

    return replace
