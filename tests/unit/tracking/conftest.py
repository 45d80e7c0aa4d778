from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stem_complete.config import Config
from stem_complete.tracking import default_uri, ui_command
from stem_complete.tracking.client import connect


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database; making one runs every migration."""
    folder = tmp_path_factory.mktemp("template")
    connect(default_uri(folder))
    return folder / "mlflow.db"


@pytest.fixture
def uri(template: Path, tmp_path: Path) -> str:
    shutil.copy(template, tmp_path / "mlflow.db")
    return default_uri(tmp_path)


@pytest.fixture
def make_config(tmp_path: Path) -> Callable[..., Config]:
    def make(name: str = "alrc-seed3", **sections: object) -> Config:
        values = {"name": name, "storage": tmp_path / "runs", "data": {"store": "store.zarr"}}
        return Config.model_validate(values | sections)

    return make


class Server:
    """A real MLflow server, started with the command that users are told, that can be ended."""

    def __init__(self, uri: str, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.command = f"exec env {ui_command(uri)} --port {self.port}"
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                shell=True,
                cwd=self.folder,
                env=os.environ | {"PATH": path, "MLFLOW_DISABLE_TELEMETRY": "true"},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=2):
                    return
            except OSError:
                time.sleep(0.1)
        raise AssertionError((self.folder / "server.log").read_text())

    def signal(self, number: int) -> None:
        assert self.process is not None
        os.killpg(self.process.pid, number)

    def kill(self) -> None:
        if self.process is not None:
            self.signal(signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture
def server(uri: str, tmp_path: Path) -> Iterator[Server]:
    server = Server(uri, tmp_path)
    yield server
    server.kill()
