"""Groups of workers that fail on purpose, one by one and without a launcher that ends them."""

from multiprocessing.context import ForkServerProcess
from typing import NamedTuple

import pytest
import workers


class Ended(NamedTuple):
    """How a worker ended; its exit code is None if it had to be killed by the test."""

    exit_code: int | None
    errors: str


@pytest.fixture
def group(tmp_path):
    """Runs `tests/workers/<script>.py` as Ray does: rank 0 keeps the store, none ends another.

    Returns how each rank ended; those in `stuck` are not waited for, but killed once the others
    have ended.
    """
    processes: list[ForkServerProcess] = []

    def run(script: str, num_processes: int, *arguments: object, stuck=()) -> list[Ended]:
        port = workers.free_port()
        processes.extend(
            workers.start(script, num_processes, *arguments, folder=tmp_path, port=port)
        )
        errors = [tmp_path / f"{rank}.txt" for rank in range(num_processes)]
        for rank in sorted(range(num_processes), key=lambda rank: rank in stuck):
            if rank in stuck:
                assert processes[rank].is_alive(), f"rank {rank} was to be stuck"
                processes[rank].kill()
            processes[rank].join(90)
            assert not processes[rank].is_alive(), "\n".join(
                [f"rank {rank} is still running", *(file.read_text() for file in errors)]
            )
        return [
            Ended(None if rank in stuck else process.exitcode, errors[rank].read_text())
            for rank, process in enumerate(processes)
        ]

    yield run
    for process in processes:
        process.kill()
        process.join()
