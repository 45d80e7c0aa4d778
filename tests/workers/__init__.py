"""Scripts that the processes of a group run, and what starts these."""

import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from itertools import cycle
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from tempfile import gettempdir

import torch.distributed as dist
from filelock import FileLock
from waiting import TIMEOUT_S

# Forks of a process that has imported what takes most of their time; optimizers import dynamo.
_WARM = multiprocessing.get_context("forkserver")
_WARM.set_forkserver_preload(["stem_complete.training", "torch._dynamo"])


def run(
    script: str,
    num_processes: int,
    *arguments: object,
    folder: Path,
    timeout_s: float | None = TIMEOUT_S,
) -> None:
    """Runs `<script>.py` as torchrun does, which keeps the store and ends all if one fails.

    What they write to stderr comes to lie in `folder`, and is the error if one fails.
    """
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    processes = start(
        script, num_processes, *arguments, folder=folder, port=store.port, keep_store=False
    )
    running = {process.sentinel: process for process in processes}
    failed = ""
    while running and not failed:
        ended = [running.pop(sentinel) for sentinel in wait(list(running), timeout_s)]
        if not ended:
            failed = f"still running after {timeout_s} s"
        for process in ended:
            process.join()
            failed = failed or (f"exit code {process.exitcode}" if process.exitcode else "")
    for process in running.values():
        process.kill()
        process.join()
    if failed:
        logs = (file.read_text()[-4000:] for file in sorted(folder.glob("*.txt")))
        raise AssertionError("\n".join([failed, *logs]))


def steps_saved_though_killed(folder: Path | str, num_kills: int) -> int:
    """Last step whose checkpoint was saved by processes that were killed; fails if one was lost."""
    script = Path(__file__).with_name("killed_while_saving.py")
    done = subprocess.run(
        [sys.executable, script, str(folder), str(num_kills)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return int(done.stdout)


def free_port() -> int:
    """A port on this machine that stays free until the caller takes it."""
    for port in _PORTS:
        with suppress(OSError):
            socket.create_server(("127.0.0.1", port)).close()
            return port
    raise OSError("other tests have all ports")


def _own_ports() -> Iterator[int]:
    """A hundred ports, again and again, that no other process of tests has, of any suite.

    They lie below those that the system gives to connections: clusters beside have many, and one
    of these may take a free port before a group listens on it.
    """
    for first in range(22_000, 32_000, 100):
        lock = FileLock(Path(gettempdir()) / f"stem-complete-tests-ports-{first}.lock")
        with suppress(OSError):
            lock.acquire(blocking=False)  # until this process ends
            yield from cycle(range(first, first + 100))


_PORTS = _own_ports()


def start(
    script: str,
    num_processes: int,
    *arguments: object,
    folder: Path,
    port: int,
    keep_store: bool = True,
) -> list[ForkServerProcess]:
    """Starts the processes of `<script>.py`, whose stderr comes to lie in `folder/<rank>.txt`.

    Args:
        port: Of the group's store on this machine.
        keep_store: Whether rank 0 keeps it, as with Ray, and not who starts them.
    """
    argv = [str(Path(__file__).parent / f"{script}.py"), *map(str, arguments)]
    processes = []
    for rank in range(num_processes):
        environment = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(num_processes),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "TORCHELASTIC_USE_AGENT_STORE": str(not keep_store),
            "GLOO_SOCKET_IFNAME": "lo",
            "TORCH_FR_DUMP_TEMP_FILE": str(folder / "trace_"),
        }
        process = _WARM.Process(target=_main, args=(argv, environment, folder / f"{rank}.txt"))
        process.start()
        processes.append(process)
    return processes


def _main(argv: list[str], environment: dict[str, str], errors: Path) -> None:
    with errors.open("w") as file:
        os.dup2(file.fileno(), sys.stderr.fileno())
    os.environ |= environment
    sys.argv = argv
    runpy.run_path(argv[0], run_name="__main__")
