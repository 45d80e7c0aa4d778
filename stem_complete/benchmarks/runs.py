"""Training runs in processes of their own, as users start them, watched and held from outside."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Self

import psutil  # type: ignore[import-untyped]
import yaml

from stem_complete.config import Config, load_config
from stem_complete.data.bundled import example_micrographs
from stem_complete.data.store.ingest import ingest
from stem_complete.tracking.journal import JOURNAL, Journal

STEM_COMPLETE = (sys.executable, "-m", "stem_complete")
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
"""One thread a process, which Ray's workers have anyway; and nothing leaves the machine."""

_STORE_FILES = 3  # some crops of so few files are for training
_TIMEOUT_S = 300.0


def small_store(path: Path, crop_size: int = 64) -> Path:
    """A store of crops of three bundled micrographs."""
    smallest = sorted(example_micrographs(), key=lambda file: file.stat().st_size)[:_STORE_FILES]
    ingest(smallest, path, crop_size=crop_size)
    return path


def run_config(name: str, folder: Path, store: Path, *changes: str) -> Config:
    """The compact network, one example a worker; it goes on until it is ended.

    Args:
        name: Of the run.
        folder: Takes it.
        store: What it trains on.
        changes: `section.field=value`.
    """
    rarely = 10_000_000
    return load_config(
        [],
        [
            f"name={name}",
            f"storage={folder}",
            f"data.store={store}",
            "model.preset=compact",
            "model.weight_norm_init=false",
            f"training.steps={rarely}",
            f"training.validate_every_steps={rarely}",
            f"training.checkpoint_every_steps={rarely}",
            "training.log_every_steps=10",
            "training.validation_examples=1",
            "training.num_pictures=0",
            "tracking.system_metrics_every_s=0",
            *changes,
        ],
    )


def free_port() -> int:
    """A TCP port that nothing listens to."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def train_command(config: Config, *, torchrun: bool = False) -> list[str]:
    """`stem-complete train`, on Ray or by torchrun; writes the config file that it reads."""
    file = Path(config.storage) / f"{config.name}.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    processes = f"--nproc-per-node={config.scaling.num_workers}"
    launcher = ("-m", "torch.distributed.run", "--standalone", processes) if torchrun else ()
    return [sys.executable, *launcher, "-m", "stem_complete", "train", str(file)]


class Command:
    """A command in the background, and all processes that descend from it.

    Ends with the block, and they with it.

    Args:
        command: What to start.
        log: File for what it prints.
        environment: Added to this process's and `ENVIRONMENT`.
    """

    def __init__(
        self, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.command, self.log = command, log
        self.environment = {**os.environ, **ENVIRONMENT, **(environment or {})}
        # A Ray cluster that this process knows is not the one to measure.
        self.environment.pop("RAY_ADDRESS", None)
        self._seen: dict[int, psutil.Process] = {}

    def __enter__(self) -> Self:
        # Ray's sockets lie in this folder, and their paths must be short.
        self._ray = tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True)
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - ours
                self.command,
                env=self.environment | {"RAY_TMPDIR": self._ray.name},
                stdout=log,
                stderr=log,
            )
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()
        self._ray.cleanup()

    def processes(self) -> list[psutil.Process]:
        """Those that run now, parents before their children."""
        with suppress(psutil.NoSuchProcess):
            first = psutil.Process(self._process.pid)
            for process in (first, *first.children(recursive=True)):
                self._seen.setdefault(process.pid, process)
        # Also those whose parent has ended before them.
        return [process for process in self._seen.values() if process.is_running()]

    @property
    def returncode(self) -> int | None:
        """Of the command itself; None while it runs."""
        return self._process.poll()

    def is_running(self) -> bool:
        """Whether the command itself has not ended."""
        return self.returncode is None

    def wait_until(self, condition: Callable[[], object], what: str) -> None:
        """Returns once `condition` is true.

        Raises:
            RuntimeError: The command ended before, or it took too long; with what it printed.
        """
        deadline = time.monotonic() + _TIMEOUT_S
        while not condition():
            if not self.is_running() or time.monotonic() > deadline:
                raise RuntimeError(f"no {what}:\n{self.log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.05)

    def hold(self) -> None:
        """Stops all processes where they are."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Lets them go on."""
        self._signal(signal.SIGCONT)

    def cpu_s(self) -> float:
        """CPU time of the processes that run now [s]."""
        total = 0.0
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def _signal(self, number: signal.Signals) -> None:
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)


class Window(NamedTuple):
    """Steps between two entries of a run's journal.

    Attributes:
        started_s: Since 1970.
        ended_s: Likewise.
        step: After it.
        num_steps: How many.
    """

    started_s: float
    ended_s: float
    step: int
    num_steps: int

    @property
    def step_s(self) -> float:
        """Time of a step [s]."""
        return (self.ended_s - self.started_s) / self.num_steps


def windows(config: Config) -> list[Window]:
    """What a run's journal tells so far."""
    journal, start = Journal(Path(str(config.run_folder)) / JOURNAL), 0
    found: list[Window] = []
    num_steps = config.training.log_every_steps
    while True:
        entries, end = journal.read(start)
        if not entries:
            return found
        start = end
        for entry in entries:
            rate = entry.get("values", {}).get("train/examples_per_s")
            if rate is not None:
                ended_s, elapsed_s = entry["time"] / 1000, num_steps * config.batch_size / rate
                found.append(Window(ended_s - elapsed_s, ended_s, entry["step"], num_steps))
