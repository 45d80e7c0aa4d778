"""Servers that take requests and never answer: neither end of a run waits for them."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from stem_complete.config import Config
from stem_complete.errors import TrackingError
from stem_complete.tracking import MlflowRecorder, TrackedRuns, client, finish_run, open_run

MakeConfig = Callable[..., Config]

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n"


class Silent:
    """A server that accepts, and says nothing or, if `drips`, a byte of an answer at a time."""

    def __init__(self, *, drips: bool) -> None:
        self.drips, self.num_requests = drips, 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.open: list[socket.socket] = []
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._listen, daemon=True).start()

    def close(self) -> None:
        for connection in (*self.open, self.listener):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def _listen(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                self.open.append(connection)
                self.num_requests += 1
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with suppress(OSError):
            if self.drips:
                connection.sendall(HEAD)
            while True:
                if self.drips:
                    connection.sendall(b" ")
                time.sleep(0.2)


@pytest.fixture(params=["mute", "drips", "unknown name"])
def url(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param != "unknown name":
        server = Silent(drips=request.param == "drips")
        yield server.url
        server.close()
        return
    over = threading.Event()

    def look_up(*_: object, **__: object) -> list[object]:
        over.wait()
        raise socket.gaierror("no such name")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    yield "http://mlflow.invalid"
    over.set()


def test_a_run_waits_for_silence_at_neither_end(
    url: str,
    make_config: MakeConfig,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    # The requests themselves would wait much longer than this test may take.
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "600")
    monkeypatch.setattr("stem_complete.tracking.runs.OPENING_S", 0.5)
    monkeypatch.setattr("stem_complete.tracking.recorder.patience", lambda _: 0.5)
    monkeypatch.setattr("stem_complete.tracking.curves.ANSWER_S", 0.5)
    before = set(threading.enumerate())

    run = open_run(make_config(), url)
    assert run.run_id is None
    recorder = MlflowRecorder(run)
    recorder.scalars(1, {"a": 1.0})
    recorder.close()
    finish_run(run, "FINISHED")
    told = " ".join(caplog.messages)
    assert told.count("training goes on and tries again later") == 1
    assert told.count("has not confirmed 1 point ") == 1
    assert len(caplog.messages) == 2

    with pytest.raises(TrackingError, match=r"no answer within 0\.5 s"):
        TrackedRuns(url, "stem-complete").curves("a")
    # What still waits does not keep the process from ending.
    assert all(thread.daemon for thread in set(threading.enumerate()) - before)


def test_both_ends_are_short() -> None:
    uri = "http://host"
    assert client.OPENING_S <= 10
    assert 2 * client.patience(uri) + 2 <= 10  # worker and driver; and system metrics
