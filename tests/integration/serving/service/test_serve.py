"""The real service: Ray Serve, HTTP over loopback, replicas that die, clients that hang up."""

import json
import os
import re
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import scan_bodies as bodies
from benchmarks.running_service import RunningService
from benchmarks.soak import soak
from waiting import wait_until

from stem_complete.client import Client, ServiceError
from stem_complete.data.scans import RasterScan
from stem_complete.scan import archimedean
from stem_complete.serving.microscope import take_scan

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    running = RunningService(tmp_path_factory.mktemp("service"))
    yield running
    running.stop()


@pytest.fixture
def client(service) -> Client:
    return Client(service.url)


@pytest.fixture(scope="module")
def expected(released, example) -> np.ndarray:
    return released.complete_scan(RasterScan(*example)).image


def same(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.ptp(expected))


def hang_up(url: str, body: bytes) -> None:
    """Sends a scan, and does not wait for its answer."""
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as connection:
        head = (
            f"POST /v1/complete?self_check=false HTTP/1.1\r\nHost: {host}:{port}\r\n"
            f"Content-Type: application/x-npz\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        connection.sendall(head.encode() + body)


def test_the_client_gets_what_the_completer_gives(client, example, expected, tmp_path):
    completion = client.complete(*example, self_check=False)
    same(completion.image, expected)
    assert completion.error is not None
    assert completion.about["self_check"] is None
    scan, dwell = tmp_path / "scan.tif", tmp_path / "dwell.npy"
    scan.write_bytes(bodies.tiff(example[0].astype(np.float32)))
    np.save(dwell, example[1])
    told = client.complete_file(scan, tmp_path / "out.npy", dwell=dwell, self_check=False)
    assert told["shape"] == [64, 64]
    same(np.load(tmp_path / "out.npy"), expected)
    assert client.model()["has_error_map"]
    with pytest.raises(ServiceError, match="expected") as refused:
        client.complete(np.ones((64, 64)))
    assert refused.value.status == 422


def test_a_scan_beyond_the_largest_message_goes_through_the_object_store(client, texture, spiral):
    intensity, dwell = spiral(texture(5, (1100, 1100)), "1/20")
    assert intensity.nbytes > 8 * 2**20
    completion = client.complete(intensity, dwell, self_check=False, error_map=False)
    assert completion.image.shape == (1100, 1100)
    assert np.isfinite(completion.image).all()


def test_waiting_scans_of_one_shape_are_completed_together(client, example, expected):
    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(lambda _: client.complete(*example, self_check=False), range(24)))
    for each in found:
        same(each.image, expected)
    sizes = [each.about["batch_size"] for each in found]
    assert max(sizes) > 1, sizes
    assert max(sizes) <= 4


def test_clients_that_hang_up_harm_no_one(service, client, example, expected):
    body = bodies.npz(intensity=example[0], dwell=example[1])
    stop = threading.Event()

    def leave() -> None:
        # Within the rate that the service allows this address, which the others share.
        while not stop.wait(0.01):
            hang_up(service.url, body)

    leaver = threading.Thread(target=leave)
    leaver.start()
    try:
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda _: client.complete(*example, self_check=False), range(20)))
    finally:
        stop.set()
        leaver.join()
    for each in found:
        same(each.image, expected)
    # What they left behind is not completed for ever.
    length = "stem_complete_queue_length "
    wait_until(lambda: f"{length}0.0" in client.request("GET", "/metrics").text, "an empty queue")


def test_no_answer_is_lost_when_a_completer_is_killed(service, client, example, expected):
    (before,) = service.replicas()
    done: list[np.ndarray] = []

    def ask(_: int) -> None:
        done.append(client.complete(*example, self_check=False).image)

    with ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(ask, number) for number in range(40)]
        wait_until(lambda: len(done) > 3, "answers")
        before.kill()
        for each in asked:
            each.result()  # an answer, or an error
    assert len(done) == 40
    for image in done:
        same(image, expected)
    assert service.replicas() != [before]


def test_a_job_outlives_a_killed_completer(service, client, example, tmp_path):
    names = []
    for number in range(12):
        file = tmp_path / f"s{number}.npz"
        file.write_bytes(bodies.npz(intensity=example[0] + number, dwell=example[1]))
        names.append(file)
    job = client.job(names, format="npy", error_map=False)
    wait_until(lambda: job.status()["results"], "a result")
    for replica in service.replicas():
        replica.kill()
    told = job.wait()
    assert told["state"] == "done"
    assert told["failed"] == {}
    saved = job.save(tmp_path / "results")
    assert len([file for file in saved if file.name.endswith("_completed.npy")]) == 12
    job.delete()


def test_a_simulated_microscope_gets_previews_while_it_scans(client, texture):
    truth = (100 + 20 * texture(7, (128, 128))).astype(np.float32)
    session = take_scan(client, truth, archimedean((128, 128), "1/10"), num_chunks=12)
    versions = [version for version, _ in session.previews]
    assert versions == sorted(set(versions))
    assert len(versions) > 1, "no preview came before the end"
    assert versions[-1] == session.num_chunks == 12
    assert session.rmse < 0.2
    assert session.latency_s > 0


SERVICE_PAGE = Path(__file__).parents[4] / "docs" / "service.md"


def curl_examples() -> list[str]:
    return re.findall(r"<!-- curl -->\n\n```sh\n(.*?)```", SERVICE_PAGE.read_text(), flags=re.S)


@pytest.mark.parametrize("number", range(3))
def test_the_curl_examples_of_the_documentation_work(service, example, tmp_path, number):
    intensity, dwell = example
    (tmp_path / "scan.tif").write_bytes(bodies.tiff(intensity.astype(np.float32)))
    (tmp_path / "samples.csv").write_bytes(bodies.csv(intensity, dwell))
    np.save(tmp_path / "dwell.npy", dwell)
    columns = bodies.samples(intensity, dwell)
    rows = np.column_stack([columns[name] for name in ("x", "y", "intensity")]).astype("<f4")
    for each, chunk in enumerate(np.array_split(rows, 2)):
        (tmp_path / f"chunk{each}.bin").write_bytes(chunk.tobytes())
    assert len(curl_examples()) == 3
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", curl_examples()[number]],
        cwd=tmp_path,
        env={**os.environ, "URL": service.url},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    wanted = [
        {"completed.tif", "completed.npz", "error.png"},
        {"scan_completed.npy"},
        {"preview.png"},
    ]
    for name in wanted[number]:
        assert (tmp_path / name).stat().st_size > 1000
    assert number != 2 or "event: finished" in done.stdout


def test_the_python_example_of_the_documentation_works(service, example):
    (code,) = re.findall(r"```python\n(.*?)```", SERVICE_PAGE.read_text(), flags=re.S)
    names = dict(zip(("intensity", "dwell"), example, strict=True))
    exec(code.replace("http://127.0.0.1:8000", service.url), names)
    assert names["completion"].image.shape == example[0].shape


def test_every_log_entry_of_a_request_has_its_id(service, client):
    client.session.headers["X-Request-Id"] = "find-me-1"
    client.model()
    deadline_s = time.monotonic() + 30
    while "find-me-1" not in (log := service.log.read_text()):  # it follows the answer
        assert time.monotonic() < deadline_s, log
        time.sleep(0.05)
    (entry,) = (json.loads(line) for line in log.splitlines() if "find-me-1" in line)
    assert entry["route"] == "/v1/model"
    assert entry["status"] == 200
    assert entry["seconds"] >= 0


def test_mixed_requests_are_answered_rightly_and_memory_stays(service):
    """The short form of `python -m tests.benchmarks.soak`."""
    found = soak(service, seconds=8.0, num=300)
    assert found.faults == []
    assert found.num_requests >= 300
    assert found.growth_mib(1) < 60
    assert found.growth_mib(2) < 120


def test_sigterm_finishes_what_has_begun(tmp_path, service, client, texture, spiral):
    """The last test of this service."""
    intensity, dwell = spiral(texture(6, (512, 512)), "1/20")
    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(client.complete, intensity, dwell) for _ in range(3)]
        name = "stem_complete_queue_length "
        wait_until(
            lambda: f"{name}3.0" in Client(service.url).request("GET", "/metrics").text,
            "three requests",
        )
        logged = len(service.log.read_bytes())  # killed completers before may have tracebacks
        code = service.stop()
        images = [each.result().image for each in asked]
    assert code == 0
    assert all(image.shape == (512, 512) for image in images)
    assert b"Traceback" not in service.log.read_bytes()[logged:]
    host, _, port = service.url.removeprefix("http://").partition(":")
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((host, int(port)))
