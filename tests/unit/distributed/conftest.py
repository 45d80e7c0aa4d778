"""Groups of workers that fail on purpose, one by one and without a launcher that ends them."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

WORKERS = Path(__file__).parents[2] / "workers"


class Ended(NamedTuple):
    """How a worker ended; its exit code is None if it had to be killed by the test."""

    exit_code: int | None
    errors: str


@pytest.fixture
def group():
    """Runs `tests/workers/<script>.py` as Ray does: rank 0 keeps the store, none ends another.

    Returns how each rank ended; those in `stuck` are not waited for, but killed once the others
    have ended.
    """
    processes: list[subprocess.Popen] = []

    def run(script: str, num_processes: int, *arguments: object, stuck=()) -> list[Ended]:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        for rank in range(num_processes):
            environment = os.environ | {
                "RANK": str(rank),
                "WORLD_SIZE": str(num_processes),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "GLOO_SOCKET_IFNAME": "lo",
                "OMP_NUM_THREADS": "1",
            }
            command = [sys.executable, str(WORKERS / f"{script}.py"), *map(str, arguments)]
            processes.append(
                subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
            )
        ended = {}
        for rank in sorted(range(num_processes), key=lambda rank: rank in stuck):
            process = processes[rank]
            if rank in stuck:
                assert process.poll() is None, f"rank {rank} was to be stuck"
                process.kill()
            _, errors = process.communicate(timeout=90)
            ended[rank] = Ended(None if rank in stuck else process.returncode, errors)
        return [ended[rank] for rank in range(num_processes)]

    yield run
    for process in processes:
        process.kill()
        process.wait()
        process.stderr.close()
