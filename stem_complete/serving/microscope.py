"""A simulated microscope that sends a scan to the service while it takes it.

    python -m stem_complete.serving.microscope --url http://127.0.0.1:8000

It goes along a path over a micrograph, counts the electrons of each sample, and sends these in
chunks, some of them late or twice, as over a bad line. A second connection watches the previews.
"""

from __future__ import annotations

import random
import threading
import time
from argparse import ArgumentParser
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from stem_complete.client import Client, Completion, LiveScan
from stem_complete.data.bundled import example_micrographs
from stem_complete.data.formats.micrographs import read_micrograph
from stem_complete.scan import (
    Detector,
    ScanPath,
    Stream,
    acquire_samples,
    archimedean,
    example_keys,
)

_DETECTOR = Detector(dose_electrons_per_px=200.0)


@dataclass
class Session:
    """What became of a simulated scan.

    Attributes:
        num_chunks: That were sent.
        previews: Version and time of each preview [s].
        latency_s: From the last chunk's arrival until its preview was fetched [s].
        completion: The last preview.
        truth: What the microscope saw [h, w].
    """

    truth: NDArray[np.float32]
    num_chunks: int = 0
    previews: list[tuple[int, float]] = field(default_factory=list)
    latency_s: float = 0.0
    completion: Completion | None = None

    @property
    def rmse(self) -> float:
        """Root mean square error of the last preview, as a fraction of the truth's range."""
        assert self.completion is not None
        off = self.completion.image - self.truth
        return float(np.sqrt(np.mean(off**2)) / np.ptp(self.truth))


def take_scan(
    client: Client,
    truth: NDArray[np.float32],
    path: ScanPath,
    *,
    num_chunks: int = 20,
    duration_s: float = 2.0,
    detector: Detector = _DETECTOR,
    seed: int = 0,
) -> Session:
    """Takes a scan, and sends it while it does.

    Args:
        client: Of the service.
        truth: The specimen [h, w].
        path: Of the probe.
        num_chunks: In which samples are sent.
        duration_s: Time that the scan takes [s].
        detector: What the samples measure.
        seed: Of noise and of what is late.
    """
    chance = random.Random(seed)  # noqa: S311 - no secret
    samples = _measured(truth, path, detector, seed)
    session = Session(truth)
    height, width = truth.shape
    scan = client.live((height, width), ["x", "y", "dwell", "intensity"], title="simulated")
    watcher = threading.Thread(target=_watch, args=[client, scan.id, session], daemon=True)
    watcher.start()
    chunks = np.array_split(samples, num_chunks)
    late: list[int] = []
    for number, chunk in enumerate(chunks):
        time.sleep(duration_s / num_chunks)  # the microscope is busy
        if chance.random() < 0.2 and number < num_chunks - 1:
            late.append(number)
            continue
        scan.send(chunk, number=number)
        if chance.random() < 0.2:
            scan.send(chunk, number=number)
        while late and chance.random() < 0.5:
            scan.send(chunks[late[-1]], number=late.pop())
    for number in late:
        scan.send(chunks[number], number=number)
    began_s = time.monotonic()
    session.completion = scan.preview()
    session.latency_s = time.monotonic() - began_s
    session.num_chunks = scan.num_chunks
    scan.finish()
    watcher.join()
    return session


def _measured(
    truth: NDArray[np.float32], path: ScanPath, detector: Detector, seed: int
) -> NDArray[np.float64]:
    """Samples of a specimen along a path [n, 4]: x, y [px], dwell, intensity in its own units."""
    low, high = float(truth.min()), float(truth.max())
    counted = acquire_samples(
        torch.from_numpy(2 * (truth - low) / (high - low) - 1)[None, None],
        path.positions.float()[None],
        path.dwell[None],
        detector,
        example_keys(seed, 0, torch.zeros(1, dtype=torch.int64), Stream.NOISE),
    )
    intensity = low + (high - low) * (counted[0].double() + 1) / 2
    return torch.column_stack([path.positions, path.dwell, intensity]).numpy()


def _watch(client: Client, scan_id: str, session: Session) -> None:
    """Notes previews, over a connection of its own."""
    own = Client(client.url, timeout_s=client.timeout_s)
    own.session.headers.update(client.session.headers)
    began_s = time.monotonic()
    with own:
        for name, data in LiveScan(own, scan_id).events():
            if name == "preview":
                session.previews.append((data["version"], time.monotonic() - began_s))


def main() -> None:
    """Takes a simulated scan, and tells of its previews."""
    parser = ArgumentParser(description=main.__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="of the service")
    parser.add_argument("--token", help="if it wants one")
    parser.add_argument("--image", type=Path, help="the specimen, by default one of the package")
    parser.add_argument("--coverage", default="1/20", help="of the spiral path")
    parser.add_argument("--seconds", type=float, default=10.0, help="that the scan takes")
    parser.add_argument("--chunks", type=int, default=50, help="in which samples are sent")
    given = parser.parse_args()
    truth = read_micrograph(given.image or example_micrographs()[-1]).pixels
    truth = truth[:512, :512].astype(np.float32)
    session = take_scan(
        Client(given.url, given.token),
        truth,
        archimedean((truth.shape[0], truth.shape[1]), given.coverage),
        num_chunks=given.chunks,
        duration_s=given.seconds,
    )
    for version, after_s in session.previews:
        print(f"{after_s:7.2f} s  preview of {version} chunks")
    print(f"last chunk to preview: {session.latency_s:.2f} s, RMSE {session.rmse:.2%} of the range")


if __name__ == "__main__":
    main()
