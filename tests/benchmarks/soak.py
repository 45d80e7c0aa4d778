"""A soak of the service: minutes of mixed requests, in which its memory must not grow.

    python -m tests.benchmarks.soak --seconds 600 --requests 10000

It goes on until both are reached. Clients complete small scans, send bad bodies, hang up in the
middle, make and remove jobs, send live scans; memory of the process that takes requests and of the
completer is told every few seconds.
"""

from __future__ import annotations

import argparse
import io
import random
import socket
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import numpy as np
import requests

from .running_service import RunningService


@dataclass
class Soak:
    """What became of a soak.

    Attributes:
        num_requests: That were answered, or left by the client.
        faults: Answers that were none of those that are right.
        memory_mib: Of the process that takes requests and of the completers, with time [s].
    """

    num_requests: int = 0
    faults: list[str] = field(default_factory=list)
    memory_mib: list[tuple[float, float, float]] = field(default_factory=list)

    def growth_mib(self, which: int) -> float:
        """How much more memory the last quarter has than the second, in medians."""
        values = [each[which] for each in self.memory_mib]
        quarter = len(values) // 4
        return float(np.median(values[-quarter:]) - np.median(values[quarter : 2 * quarter]))


def soak(service: RunningService, *, seconds: float, num: int, num_clients: int = 4) -> Soak:
    """Sends mixed requests for so long, and so many."""
    found, lock, stop = Soak(), threading.Lock(), threading.Event()
    began_s = time.monotonic()

    def client(seed: int) -> None:
        chance, bodies = random.Random(seed), _bodies(seed)
        with requests.Session() as session:
            while not stop.is_set():
                fault = _one(service.url, session, bodies, chance)
                with lock:
                    found.num_requests += 1
                    if fault:
                        found.faults.append(fault)

    threads = [threading.Thread(target=client, args=[seed]) for seed in range(num_clients)]
    for thread in threads:
        thread.start()
    pause_s = max(0.2, min(5.0, seconds / 40))
    while time.monotonic() - began_s < seconds or found.num_requests < num:
        time.sleep(pause_s)
        completers = sum(each.memory_info().rss for each in service.replicas())
        found.memory_mib.append(
            (
                time.monotonic() - began_s,
                service.memory_bytes() / 2**20,
                completers / 2**20,
            )
        )
    stop.set()
    for thread in threads:
        thread.join()
    return found


def _bodies(seed: int) -> tuple[bytes, bytes, bytes]:
    """A scan as NPZ, the same damaged, and rows of samples."""
    rng = np.random.default_rng(seed)
    dwell = (rng.random((48, 48)) < 0.3) * 1.0
    file = io.BytesIO()
    np.savez(file, intensity=np.where(dwell > 0, rng.random((48, 48)), np.nan), dwell=dwell)
    content = file.getvalue()
    y, x = np.nonzero(dwell)
    rows = np.column_stack([x, y, rng.random(len(x))]).astype("<f4")
    return content, content[: len(content) // 2], rows.tobytes()


def _one(
    url: str, session: requests.Session, bodies: tuple[bytes, bytes, bytes], chance: random.Random
) -> str:
    """One request of some kind; what is wrong with its answer, "" if nothing."""
    scan, damaged, rows = bodies
    npz = {"Content-Type": "application/x-npz"}
    kinds = {"complete": 4, "bad": 4, "look": 4, "hang up": 1, "live": 1, "job": 1}
    (kind,) = chance.choices(list(kinds), list(kinds.values()))
    if kind == "complete":
        params = {"self_check": "false"}
        answer = session.post(f"{url}/v1/complete", scan, headers=npz, params=params)
        return _unless(answer, 200)
    if kind == "bad":
        return _unless(session.post(f"{url}/v1/complete", damaged, headers=npz), 422)
    if kind == "look":
        path = chance.choice(("/v1/health", "/v1/model", "/metrics", "/", "/v1/examples"))
        return _unless(session.get(f"{url}{path}"), 200)
    if kind == "hang up":
        place = urlsplit(url)
        with socket.create_connection((place.hostname or "", place.port or 0)) as connection:
            head = f"POST /v1/complete HTTP/1.1\r\nHost: {place.netloc}\r\n"
            head += f"Content-Type: application/x-npz\r\nContent-Length: {len(scan)}\r\n\r\n"
            connection.sendall(head.encode() + scan[: chance.randrange(len(scan))])
        return ""
    if kind == "live":
        settings = {"shape": [48, 48]}
        path = session.post(f"{url}/v1/scans", json=settings).headers["Location"]
        wrong = _unless(session.put(f"{url}{path}/chunks/0", rows), 201)
        wrong = wrong or _unless(session.get(f"{url}{path}/preview"), 200)
        return wrong or _unless(session.delete(f"{url}{path}"), 204)
    path = session.post(f"{url}/v1/jobs").headers["Location"]
    wrong = _unless(session.put(f"{url}{path}/scans/a.npz", scan, headers=npz), 201)
    return wrong or _unless(session.delete(f"{url}{path}"), 204)


def _unless(answer: requests.Response, status: int) -> str:
    return "" if answer.status_code == status else f"{answer.status_code}: {answer.text[:200]}"


def main() -> None:
    """Soaks a service of its own, and tells of its memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=4)
    given = parser.parse_args()
    with TemporaryDirectory(prefix="stem-complete-") as folder:
        service = RunningService(Path(folder))
        try:
            found = soak(
                service, seconds=given.seconds, num=given.requests, num_clients=given.clients
            )
        finally:
            service.stop()
    for after_s, own, completers in found.memory_mib[:: max(1, len(found.memory_mib) // 20)]:
        print(f"{after_s:8.0f} s  {own:8.0f} MiB  {completers:8.0f} MiB")
    print(f"{found.num_requests} requests, {len(found.faults)} faults: {found.faults[:5]}")
    print(f"growth: {found.growth_mib(1):.1f} MiB, completers {found.growth_mib(2):.1f} MiB")


if __name__ == "__main__":
    main()
