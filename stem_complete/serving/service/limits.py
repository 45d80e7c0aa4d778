"""How much the service takes, of one request and of all."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from stem_complete.console import counted
from stem_complete.serving.service.problems import too_large

MIB = 2**20


@dataclass(frozen=True)
class Limits:
    """What is refused before it is decoded, and how much may wait.

    Attributes:
        body_bytes: Of one request.
        expanded_bytes: Of what is packed in it, as its headers say.
        pixels: Of one scan.
        samples: Of one scan along a path, and rows of a table.
        members: Arrays of an NPZ, pages of a TIFF, parts of a form, columns of a table.
        waiting: Scans that may wait for completion in one process.
        requests_per_s: Of one client, in the long run.
        burst: Of one client, at once.
        text_bytes: Of one request that holds no scan and no samples, but settings.
        waiting_pixels: Of all scans that wait, in one process: memory is some 20 bytes for each.
        readers: Bodies that are read, and answers that are encoded, at once.
        hdf5_s: CPU time that reading one HDF5 body may take [s]; see `Apart.call`.
        body_idle_s: Longest pause of a client that sends a body [s].
        body_s: Longest time that a body may take [s].
        connections: At once.
        job_scans: Of one job.
        jobs: That are kept.
        live_scans: That are kept.
        chunks: Of one live scan.
        stored_bytes: Of all jobs and live scans.
        kept_s: Time that jobs and live scans are kept after their last change [s].
    """

    body_bytes: int = 512 * MIB
    expanded_bytes: int = 512 * MIB
    pixels: int = 4096 * 4096
    samples: int = 2**22
    members: int = 32
    waiting: int = 64
    requests_per_s: float = 200.0
    burst: int = 400
    text_bytes: int = MIB
    waiting_pixels: int = 8 * 4096 * 4096
    readers: int = 4
    hdf5_s: float = 30.0
    body_idle_s: float = 60.0
    body_s: float = 1800.0
    connections: int = 1000
    job_scans: int = 10_000
    jobs: int = 1000
    live_scans: int = 200
    chunks: int = 20_000
    stored_bytes: int = 64 * 1024 * MIB
    kept_s: float = 24 * 3600.0


def check_pixels(shape: tuple[int, ...], limits: Limits, what: str = "an image") -> None:
    """Checks the shape of an image or stack.

    Raises:
        Problem: 413 if it has too many pixels.
    """
    if prod(map(int, shape[-2:])) > limits.pixels:
        raise too_large(
            f"{what} of at most {counted(limits.pixels, 'pixel')}",
            " x ".join(map(str, shape)),
        )


def check_count(num: int, most: int, what: str, of: str = "a body") -> None:
    """Checks how many of something there are.

    Raises:
        Problem: 413 if there are too many.
    """
    if num > most:
        raise too_large(f"at most {counted(most, what)} in {of}", f"{num} or more")
