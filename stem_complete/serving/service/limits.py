"""How much the service takes, of one request and of all."""

from __future__ import annotations

from dataclasses import dataclass

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
    body_idle_s: float = 60.0
    body_s: float = 1800.0
    connections: int = 1000
    job_scans: int = 10_000
    jobs: int = 1000
    live_scans: int = 200
    chunks: int = 20_000
    stored_bytes: int = 64 * 1024 * MIB
    kept_s: float = 24 * 3600.0
