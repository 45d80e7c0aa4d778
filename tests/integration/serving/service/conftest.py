"""The application in this process, with the released model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from stem_complete import load_completer
from stem_complete.inference import Completer
from stem_complete.serving.service.app import make_app
from stem_complete.serving.service.completing import Desk
from stem_complete.serving.service.limits import Limits

SMALL = (64, 64)


@pytest.fixture(scope="session")
def released() -> Completer:
    """The released model."""
    return load_completer()


@pytest.fixture(scope="session")
def make_client(released: Completer, tmp_path_factory) -> Iterator[Callable[..., TestClient]]:
    """Makes a client of an application of its own; options are those of `make_app`."""
    begun: list[tuple[TestClient, Desk]] = []

    def make(storage: Path | None = None, **options: Any) -> TestClient:
        desk = Desk(lambda: released, 4)
        app = make_app(desk, storage or tmp_path_factory.mktemp("storage"), **options)
        client = TestClient(app, raise_server_exceptions=True)
        client.__enter__()
        begun.append((client, desk))
        return client

    yield make
    for client, desk in begun:
        client.__exit__(None, None, None)
        asyncio.run(desk.close())


@pytest.fixture(scope="module")
def client(make_client) -> TestClient:
    """Of an application with small limits."""
    return make_client(limits=Limits(pixels=600 * 600, body_bytes=8 * 2**20, samples=100_000))


@pytest.fixture(scope="session")
def example(texture, spiral) -> tuple[np.ndarray, np.ndarray]:
    """A partial scan of 64 x 64 px: intensities, NaN where not measured, and dwell."""
    return spiral(100 + 20 * texture(1, SMALL), "1/8")
