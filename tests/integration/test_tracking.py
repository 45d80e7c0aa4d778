"""Curves against a real MLflow server that is late, slow, broken, or gone for a while.

Each test says what is injected. What may be lost is nothing: the server's curves are compared with
what the training loop recorded, point by point.
"""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from select import select
from typing import Any, ClassVar
from unittest.mock import patch

import numpy as np
import pytest
import requests
from faults import free_port
from moto.server import ThreadedMotoServer
from upath import UPath
from waiting import wait_until

from stem_complete.config import Config
from stem_complete.distributed import WorkerContext
from stem_complete.errors import TrackingError
from stem_complete.inference import RELEASED_MODEL, model_folder, read_card, register_model
from stem_complete.tracking import (
    MlflowRecorder,
    TrackedRun,
    default_uri,
    finish_run,
    open_run,
    system_metrics,
    ui_command,
)
from stem_complete.tracking.client import connect
from stem_complete.training import Recorders, train

MakeConfig = Callable[..., Config]
Curves = dict[str, list[tuple[int, float]]]


class Server:
    """A real MLflow server, started with the command that users are told, that can be ended."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                f"exec env {ui_command(default_uri(self.folder))} --port {self.port}",
                shell=True,
                cwd=self.folder,
                env=os.environ | {"PATH": path, "MLFLOW_DISABLE_TELEMETRY": "true"},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_until(self.answers, f"the server, see {self.folder / 'server.log'}")

    def answers(self) -> bool:
        with suppress(OSError), urllib.request.urlopen(f"{self.url}/health", timeout=10):
            return True
        return False

    def signal(self, number: int) -> None:
        assert self.process is not None
        os.killpg(self.process.pid, number)

    def kill(self) -> None:
        if self.process is not None:
            self.signal(signal.SIGKILL)
            self.process.wait()
            self.process = None


class Proxy:
    """What stands between training and the server. `fault` is one of:

    - `""`: passes everything on;
    - `"slow"`: holds every request for 2 s;
    - `"stall"`: takes requests and never answers;
    - `"cut"`: closes connections;
    - `"unanswered"`: passes requests on, and closes instead of answering;
    - an HTTP response: answers with it instead of the server.
    """

    def __init__(self, port: int) -> None:
        self.port, self.fault, self.num_requests = port, "", 0
        self.connections: set[socket.socket] = set()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._listen, daemon=True).start()

    def inject(self, fault: str) -> None:
        """Changes the fault; connections that are open are cut, as clients keep them."""
        self.fault, self.num_requests = fault, 0
        for connection in list(self.connections):
            with suppress(OSError):  # it is closed already
                connection.shutdown(socket.SHUT_RDWR)  # at once, also while a thread waits for it

    def close(self) -> None:
        self.inject("cut")
        self.listener.close()

    def _listen(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            self.connections.add(client)
            threading.Thread(target=self._serve, args=(client, self.fault), daemon=True).start()

    def _serve(self, client: socket.socket, fault: str) -> None:
        try:
            with client, socket.create_connection(("127.0.0.1", self.port)) as server:
                self._pass_on(client, server, fault)
        except (OSError, ValueError):
            pass  # one of them is closed
        finally:
            self.connections.discard(client)

    def _pass_on(self, client: socket.socket, server: socket.socket, fault: str) -> None:
        if fault == "cut":
            self.num_requests += 1
            return
        while True:
            ready, _, _ = select([client, server], [], [], 0.5)
            if client in ready:
                if not (request := client.recv(1 << 20)):
                    return
                self.num_requests += 1
                if fault.startswith("HTTP"):
                    client.sendall(fault.encode())
                    return
                if fault == "slow":
                    time.sleep(2.0)
                if fault != "stall":
                    server.sendall(request)
            if server in ready:
                if not (answer := server.recv(1 << 20)) or fault == "unanswered":
                    return
                client.sendall(answer)


def page(status: str) -> str:
    """The page that a proxy shows while there is no server behind it."""
    body = f"<html><body><h1>{status}</h1></body></html>"
    head = f"HTTP/1.1 {status}\r\nContent-Type: text/html\r\nContent-Length: {len(body)}"
    return f"{head}\r\nConnection: close\r\n\r\n{body}"


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is well may take seconds on a busy machine."""
    for limit in ("OPENING_S", "OPENING_AGAIN_S"):
        monkeypatch.setattr(f"stem_complete.tracking.runs.{limit}", 60.0)
    monkeypatch.setattr("stem_complete.tracking.recorder.patience", lambda _: 60.0)


@pytest.fixture(scope="module")
def late_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Made once, and not started yet."""
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.kill()


@pytest.fixture
def server(late_server: Server) -> Server:
    """Runs; a test that ends it starts it again."""
    if late_server.process is None:
        late_server.start()
    return late_server


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    proxy = Proxy(server.port)
    yield proxy
    proxy.close()


@pytest.fixture
def config(tmp_path: Path) -> Config:
    values = {"name": "run", "storage": str(tmp_path), "data": {"store": "store.zarr"}}
    return Config.model_validate(values)


@contextmanager
def no_requests_here() -> Iterator[None]:
    """Fails the test if this thread asks a server for anything, as it would wait for the answer."""
    request, this = requests.Session.request, threading.get_ident()

    def elsewhere(*args: Any, **options: Any) -> requests.Response:
        if threading.get_ident() == this:
            pytest.fail("training waits for the tracking server")
        return request(*args, **options)

    with patch.object(requests.Session, "request", elsewhere):
        yield


class Training:
    """A loop that records, remembers what it recorded, and never waits for a server."""

    def __init__(self, run: TrackedRun) -> None:
        self.recorder = MlflowRecorder(run, flush_every_s=0.1)
        self.step = 0
        self.curves: Curves = {"train/outer_loss": [], "train/beta1": []}

    def steps(self, num_steps: int, *, for_s: float = 0.0) -> None:
        for _ in range(num_steps):
            self.step += 1
            values = {"train/outer_loss": 1 / self.step, "train/beta1": 0.9}
            with no_requests_here():
                self.recorder.scalars(self.step, values)
                if self.step % 50 == 0:
                    picture = np.full((16, 16), self.step % 256, np.uint8)
                    self.recorder.picture(self.step, "p", picture)
            for key, value in values.items():
                self.curves[key].append((self.step, value))
            time.sleep(for_s / num_steps)

    def is_delivered(self) -> bool:
        return self.recorder.undelivered() == (0, 0)


def curves(run: TrackedRun) -> Curves:
    """All points that the server has, repeated ones too."""
    client = connect(run.uri)
    return {
        key: [(point.step, point.value) for point in client.get_metric_history(run.run_id, key)]
        for key in client.get_run(run.run_id).data.metrics
    }


def test_a_server_that_is_late_hangs_dies_and_comes_back_loses_nothing(
    late_server: Server, config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    """The first test, as there is no server yet."""
    server = late_server
    server.kill()  # but where it is repeated
    run = open_run(config, server.url)
    assert run.run_id is None
    training = Training(run)
    training.steps(100)
    server.start()
    wait_until(training.is_delivered, "the delivery")
    server.signal(signal.SIGSTOP)
    training.steps(100, for_s=0.5)
    server.kill()
    training.steps(100, for_s=0.5)
    assert not training.is_delivered()
    server.start()
    training.steps(100)
    training.recorder.close()

    assert curves(open_run(config, server.url)) == training.curves
    warnings = [message for message in caplog.messages if "does not answer" in message]
    assert len(warnings) == 2  # one by `open_run`, one by the recorder for all outages


@pytest.mark.parametrize(
    "fault",
    [
        "slow",
        "stall",
        "cut",
        "unanswered",
        page("500 Internal Server Error"),
        page("404 Not Found"),
        page("400 Bad Request"),
        page("200 OK"),
    ],
    ids=lambda fault: fault.split("\r")[0],
)
def test_a_fault_in_the_middle_loses_and_repeats_nothing(
    fault: str, proxy: Proxy, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = open_run(config, proxy.url)
    training = Training(run)
    training.steps(100)
    wait_until(training.is_delivered, "the delivery")
    with monkeypatch.context() as impatient:
        impatient.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3")
        proxy.inject(fault)
        training.steps(100)
        assert not training.is_delivered()
        wait_until(lambda: proxy.num_requests >= 2, "requests")
        training.steps(100)
        proxy.inject("")
    training.steps(100)
    training.recorder.close()
    assert curves(run) == training.curves
    assert len(connect(run.uri).list_artifacts(run.run_id, "completions")) == 8


@pytest.mark.parametrize("fault", ["stall", "unanswered", page("404 Not Found")], ids=repr)
def test_a_fault_at_the_start_delays_only_the_run(
    fault: str, proxy: Proxy, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    proxy.inject(fault)
    sweep = open_run(config.model_copy(update={"name": "sweep"}), proxy.url)
    run = open_run(config, proxy.url, parent=sweep)
    assert (sweep.run_id, run.run_id) == (None, None)
    training = Training(run)
    training.steps(100)
    wait_until(lambda: proxy.num_requests >= 3, "requests")
    proxy.inject("")
    # A server that is well may still take seconds on a busy machine.
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    training.steps(100)
    training.recorder.close()
    finish_run(run, "FINISHED")
    finish_run(sweep, "FINISHED")

    run = open_run(config, proxy.url)
    assert curves(run) == training.curves
    parent = connect(run.uri).get_run(run.run_id).data.tags["mlflow.parentRunId"]
    assert connect(run.uri).get_run(parent).info.status == "FINISHED"
    assert connect(run.uri).get_run(parent).info.run_name == "sweep"
    runs = connect(run.uri).search_runs(
        [connect(run.uri).get_run(run.run_id).info.experiment_id],
        f"tags.`stem_complete.run` LIKE '{config.storage}%'",
    )
    assert {found.info.run_name for found in runs} == {"sweep", "run"}
    assert len(runs) == 2


def test_workers_that_are_killed_make_one_run(server: Server, config: Config) -> None:
    """Injected: SIGKILL of the recording process, twice; then steps are repeated."""
    run = open_run(config, server.url)
    code = """
import pickle, sys, time
from stem_complete.tracking import MlflowRecorder
run, first = pickle.loads(bytes.fromhex(sys.argv[1])), int(sys.argv[2])
recorder = MlflowRecorder(run, flush_every_s=0.1)
for step in range(first, first + 100):
    recorder.scalars(step, {"a": step / 3})
    time.sleep(0.02)
    print(step, flush=True)
time.sleep(600)
"""
    for first in (1, 61):
        command = [sys.executable, "-c", code, pickle.dumps(run).hex(), str(first)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if int(line) == first + 80:
                    process.kill()
                    break
    recorder = MlflowRecorder(run)
    for step in range(130, 161):
        recorder.scalars(step, {"a": step / 3})
    recorder.close()
    assert curves(run) == {"a": [(step, step / 3) for step in range(1, 161)]}


def test_training_records_what_it_measured_while_the_server_comes_and_goes(
    proxy: Proxy, small_config: MakeConfig
) -> None:
    config = small_config("training.steps=12", "tracking.system_metrics_every_s=0.5")
    run = open_run(config, proxy.url)
    mlflow = MlflowRecorder(run, flush_every_s=0.1)

    class Watcher:
        recorded: ClassVar[Curves] = {}

        def scalars(self, step: int, values: Mapping[str, float]) -> None:
            for key, value in values.items():
                self.recorded.setdefault(key, []).append((step, value))
            proxy.inject({4: "cut", 8: "stall", 10: ""}.get(step, proxy.fault))

        def picture(self, step: int, name: str, image: np.ndarray) -> None: ...

        def close(self) -> None: ...

    cpu = f"system/{socket.gethostname()}/cpu_utilization_percentage"
    with system_metrics(run, WorkerContext()), closing(Recorders([Watcher(), mlflow])) as recorder:
        train(config, WorkerContext(), recorder=recorder)
        proxy.inject("")
        # It goes on after an outage.
        wait_until(lambda: len(curves(run).get(cpu, [])) >= 2, "system metrics")
    found = curves(run)
    own = {key: points for key, points in found.items() if not key.startswith("system/")}
    assert own == Watcher.recorded
    assert len(Watcher.recorded["train/outer_loss"]) == 12


def test_a_model_is_registered_and_loaded_by_its_alias_through_a_server(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files go to the server and come back by it."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    registered = register_model("released", "gold", "production")
    assert registered.places == {"version": f"{server.url}/#/models/gold/versions/1"}
    assert read_card(model_folder(registered.source)) == read_card(RELEASED_MODEL)
    assert model_folder(f"runs:/{registered.run_id}") == model_folder("models:/gold/1")
    with pytest.raises(TrackingError, match="an alias of gold 'champion', found production"):
        model_folder("models:/gold@champion")
    with pytest.raises(TrackingError, match="a name and an alias that MLflow takes"):
        register_model("released", "gold", "v1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(TrackingError, match="Connection refused"):
        model_folder("models:/gold@production")


@pytest.fixture(scope="module")
def bucket() -> Iterator[UPath]:
    """A bucket of a real S3-compatible server, configured as a user does, by the environment."""
    moto = ThreadedMotoServer(port=0)
    moto.start()
    host, port = moto.get_host_and_port()
    with pytest.MonkeyPatch.context() as environment:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            environment.setenv(name, value)
        bucket = UPath("s3://tracking")
        bucket.fs.mkdir("tracking")
        yield bucket
    moto.stop()


def test_a_run_on_an_object_store_goes_on_on_another_machine(
    server: Server,
    bucket: UPath,
    config: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Injected: the server is down, and the first machine is lost with its disk."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    config = config.model_copy(update={"storage": str(bucket / tmp_path.name)})
    run = open_run(config, server.url)
    down = replace(run, uri=f"http://127.0.0.1:{free_port()}")
    first = MlflowRecorder(down, close_timeout_s=5.0)
    first.scalars(1, {"a": 1.0})
    first.picture(1, "p", np.zeros((4, 4), np.uint8))
    first.close()
    assert not list(tmp_path.glob("stem-complete-*"))
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()

    second = MlflowRecorder(run)
    second.scalars(2, {"a": 2.0})
    second.close()
    found = curves(run)
    assert found["a"] == [(1, 1.0), (2, 2.0)]
    assert connect(run.uri).list_artifacts(run.run_id, "completions/step-00000001")
    assert (config.run_folder / "completions" / "step-00000001" / "p.png").exists()
    assert not list(tmp_path.iterdir())
