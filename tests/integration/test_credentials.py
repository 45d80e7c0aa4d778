"""A run whose URLs have a password in them: whom it reaches, and that nobody else has it."""

from __future__ import annotations

import base64
import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from stem_complete.inspection import inspect_path
from stem_complete.launch import launch

SECRET = "hush-5up3r"


class Guarded(BaseHTTPRequestHandler):
    """Notes who asks, and lets nobody in."""

    seen: list[str | None]

    def do_GET(self) -> None:
        self.seen.append(self.headers["Authorization"])
        self.send_error(500)

    do_POST = do_GET  # noqa: N815

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


@pytest.fixture
def guarded() -> Iterator[ThreadingHTTPServer]:
    Guarded.seen = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Guarded) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_a_password_reaches_the_server_and_no_output(
    guarded: ThreadingHTTPServer,
    small_config: Any,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "stem_complete")
    config = small_config(
        f"tracking.uri=http://me:{SECRET}@127.0.0.1:{guarded.server_port}",
        "tracking.system_metrics_every_s=0",
        "training.steps=2",
    )
    (outcome,) = launch(config, local=True)
    basic = base64.b64encode(f"me:{SECRET}".encode()).decode()
    assert set(Guarded.seen) == {f"Basic {basic}"}

    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert {"config.yaml", "metrics.jsonl", "model.json"} <= {file.name for file in files}
    for file in files:
        assert SECRET.encode() not in file.read_bytes(), file
    shown = (*capfd.readouterr(), caplog.text, json.dumps(outcome.to_dict(), default=str))
    assert not any(SECRET in text for text in shown)
    assert SECRET not in json.dumps(inspect_path(outcome.config.run_folder), default=str)
