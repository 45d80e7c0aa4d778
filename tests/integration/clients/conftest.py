"""A service on loopback, and napari without a screen."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from waiting import wait_until

# Before napari is imported: it keeps no settings, and Qt needs no screen.
os.environ.setdefault("NAPARI_CONFIG", "")
os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from stem_complete.serving.service.access import new_token
from stem_complete.serving.service.app import make_app
from stem_complete.serving.service.completing import Desk

MANIFEST = Path(__file__).parents[3] / "stem_complete" / "napari" / "napari.yaml"


@pytest.fixture(scope="session")
def token_and_hash() -> tuple[str, str]:
    return new_token()


@pytest.fixture(scope="session")
def service(completer, token_and_hash, tmp_path_factory) -> Iterator[str]:
    """Address of a service with the untrained model, which wants a token."""
    desk = Desk(lambda: completer, 4)
    app = make_app(desk, tmp_path_factory.mktemp("service"), token_hashes=[token_and_hash[1]])
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="on"))
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started, "the service")
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()
    asyncio.run(desk.close())


@pytest.fixture(scope="session")
def example(texture, spiral) -> tuple[np.ndarray, np.ndarray]:
    """A partial scan of 64 x 96 px: intensities, NaN where not measured, and dwell."""
    return spiral(100 + 20 * texture(1, (64, 96)), "1/8")


@pytest.fixture(scope="session")
def plugin() -> Any:
    """The plugin as napari knows it."""
    pytest.importorskip("napari", reason="napari is not installed (extra `napari`)")
    from npe2 import PluginManager, PluginManifest

    manager = PluginManager.instance()
    manager.discover()
    if "stem-complete" not in manager:  # installed by an earlier version
        manager.register(PluginManifest.from_file(MANIFEST))
    return manager.get_manifest("stem-complete")


@pytest.fixture
def viewer(plugin) -> Any:
    """napari's viewer without its window."""
    from napari.components import ViewerModel

    return ViewerModel()
