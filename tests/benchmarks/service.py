"""The completion service: requests at several numbers of clients, beside the completer itself."""

import http.client
import io
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple
from urllib.parse import urlsplit

import numpy as np

from stem_complete import load_completer
from stem_complete.client import Client
from stem_complete.data.bundled import example_micrographs
from stem_complete.data.conventions import raster_scan
from stem_complete.data.formats.micrographs import read_micrograph
from stem_complete.data.scans import RasterScan
from stem_complete.inference import Completer
from stem_complete.inference.complete import complete_scans
from stem_complete.scan import archimedean
from stem_complete.serving.microscope import take_scan
from stem_complete.serving.service.config import CPU_BATCH_SIZE, GPU_BATCH_SIZE

from . import Setting
from .report import Comparison, Goal
from .running_service import RunningService

CLIENTS = (1, 4, 16, 64)


def run(setting: Setting) -> Iterator[Comparison]:
    """Single scans with error map and self-check, and the preview after the last chunk."""
    size = 64 if setting.quick else 512
    truth = read_micrograph(example_micrographs()[-1]).pixels[:size, :size].astype(np.float32)
    dwell = archimedean((size, size), "1/20").dwell_map().numpy()
    scan = RasterScan(np.where(dwell > 0, truth, np.nan), dwell)
    file = io.BytesIO()
    np.savez(file, intensity=scan.intensity.astype(np.float32), dwell=dwell)
    on_gpu = setting.device.type == "cuda"
    completer = load_completer(device=setting.device)
    batch_size = GPU_BATCH_SIZE if on_gpu else CPU_BATCH_SIZE
    service = RunningService(setting.folder, *(["--gpu"] if on_gpu else []))
    try:
        yield from _loads(setting, service, completer, scan, file.getvalue(), batch_size)
        yield _preview(setting, service, completer, truth)
        yield Comparison(
            "from the command's start until it is ready",
            "s",
            [service.ready_s] * setting.rounds,
            "what is allowed",
            [20.0] * setting.rounds,
            Goal("<=", 1.0),
            "measured once",
        )
    finally:
        service.stop()


def _loads(
    setting: Setting,
    service: RunningService,
    completer: Completer,
    scan: RasterScan,
    body: bytes,
    batch_size: int,
) -> Iterator[Comparison]:
    """Answers a second by the clock, and CPU time, which other load on the machine leaves alone."""
    size = scan.shape[0]
    clients = CLIENTS[:2] if setting.quick else CLIENTS
    found: dict[int, list[_Round]] = {num: [] for num in clients}
    latencies: dict[int, list[float]] = {num: [] for num in clients}
    _in_process(completer, scan, batch_size, batch_size)
    ask(service.url, body, 2, 4)
    for _ in range(setting.rounds):
        for num in clients:
            before, num_scans = service.cpu_s(), max(num, 8)
            rate, took = ask(service.url, body, num, num_scans)
            after = service.cpu_s()
            spent = {kind: (after[kind] - before[kind]) / num_scans for kind in after}
            alone = _in_process(completer, scan, max(num // 2, 8), min(num, batch_size))
            found[num].append(_Round(rate, spent, *alone))
            latencies[num] += took
    for num in clients:
        p50, p95, p99 = np.percentile(latencies[num], [50, 95, 99])
        rounds, is_saturated = found[num], num == clients[-1]
        yield Comparison(
            f"{num} clients, {size}x{size}",
            "scans/s",
            [each.rate for each in rounds],
            "the completer in this process",
            [each.rate_alone for each in rounds],
            Goal(">=", 0.85) if is_saturated else None,
            f"latency: p50 {p50:.2f} s, p95 {p95:.2f} s, p99 {p99:.2f} s",
        )
        shares = {
            kind: np.median([each.cpu_s[kind] for each in rounds]) for kind in rounds[0].cpu_s
        }
        yield Comparison(
            f"{num} clients, {size}x{size}, CPU time of all processes",
            "s/scan",
            [sum(each.cpu_s.values()) for each in rounds],
            "of this process",
            [each.cpu_s_alone for each in rounds],
            Goal("<=", 1.15) if is_saturated else None,
            f"completer {shares['completers']:.3f} s, HTTP {shares['own']:.3f} s, Ray "
            f"{shares['ray']:.3f} s",
        )


class _Round(NamedTuple):
    """Figures of one round at one number of clients.

    Attributes:
        rate: Answers/s.
        cpu_s: CPU time for each scan, by kind of process [s].
        rate_alone: Scans/s of the completer in this process.
        cpu_s_alone: CPU time of that for each scan [s].
    """

    rate: float
    cpu_s: dict[str, float]
    rate_alone: float
    cpu_s_alone: float


def ask(url: str, body: bytes, num_clients: int, num_requests: int) -> tuple[float, list[float]]:
    """Requests from many clients, each of which waits for its answer: answers/s, latencies [s].

    Bodies are encoded before, and answers read but not decoded: it is the service that is measured.
    """
    own, opened = threading.local(), []
    place = urlsplit(url)

    def one(_: int) -> float:
        if not hasattr(own, "connection"):
            own.connection = http.client.HTTPConnection(place.hostname or "", place.port)
            opened.append(own.connection)
        began_s = time.monotonic()
        own.connection.request("POST", "/v1/complete", body, {"Content-Type": "application/x-npz"})
        answer = own.connection.getresponse()
        content = answer.read()
        assert answer.status == 200, content[:500]
        return time.monotonic() - began_s

    began_s = time.monotonic()
    with ThreadPoolExecutor(num_clients) as pool:
        latencies = list(pool.map(one, range(num_requests)))
    rate = num_requests / (time.monotonic() - began_s)
    for connection in opened:
        connection.close()
    return rate, latencies


def _in_process(
    completer: Completer, scan: RasterScan, num: int, batch_size: int
) -> tuple[float, float]:
    """Scans/s of the completer by itself, from arrays to arrays, and CPU time for each [s]."""
    began_s, cpu_s = time.monotonic(), time.process_time()
    scans = complete_scans(
        completer,
        (raster_scan(scan.intensity, scan.dwell) for _ in range(num)),
        error_map=True,
        self_check=True,
        batch_size=batch_size,
    )
    assert len(list(scans)) == num
    return num / (time.monotonic() - began_s), (time.process_time() - cpu_s) / num


def _preview(
    setting: Setting, service: RunningService, completer: Completer, truth: np.ndarray
) -> Comparison:
    latencies, alone = [], []
    path = archimedean((truth.shape[0], truth.shape[1]), "1/20")
    dwell = path.dwell_map().numpy()
    scan = RasterScan(np.where(dwell > 0, truth, np.nan), dwell)
    for seed in range(setting.rounds):
        with Client(service.url) as client:
            session = take_scan(client, truth, path, num_chunks=10, duration_s=1.0, seed=seed)
        latencies.append(session.latency_s)
        began_s = time.monotonic()
        completer.complete_scan(scan)
        alone.append(time.monotonic() - began_s)
    size = truth.shape[0]
    return Comparison(
        f"last chunk to preview, {size}x{size}, while others are made",
        "s",
        latencies,
        "completion in this process",
        alone,
    )
