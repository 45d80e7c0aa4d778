"""A training run in a process of its own, and the same run undisturbed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import psutil
import torch
import workers
import yaml
from stores import give_mlflow_database
from training_runs import SMALLEST
from waiting import TIMEOUT_S, wait_until

from faults.nodes import ENVIRONMENT, kill_tree
from stem_complete.config import Config, load_config
from stem_complete.tracking import TrackedRuns, default_uri
from stem_complete.training import Checkpoints

PACED = Path(__file__).with_name("pace.py")


def short_run(store: Path, storage: Path, *changes: str, name: str = "run") -> Config:
    """Two workers, steps of some ten milliseconds, and a line in the journal for each."""
    return load_config(
        [],
        [
            f"name={name}",
            f"storage={storage}",
            f"data.store={store}",
            "model.preset=compact",
            SMALLEST,
            "scan.coverage=1/10",
            "optimizer.learning_rate=1e-5",
            "training.batch_size=4",
            "training.steps=120",
            "training.log_every_steps=1",
            "training.checkpoint_every_steps=10",
            "training.validate_every_steps=60",
            "training.validation_examples=3",
            "training.num_pictures=1",
            "training.calibration_scans=2",
            "scaling.num_workers=2",
            "scaling.max_failures=-1",
            "tracking.system_metrics_every_s=0",
            *changes,
        ],
    )


def write_config(config: Config, folder: Path) -> Path:
    """File with the resolved config."""
    file = folder / f"{config.name}.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return file


class JournalEntry(NamedTuple):
    """A step that was taken, as the run's journal has it."""

    time_s: float
    step: int
    values: dict[str, float]


def journal(config: Config) -> list[JournalEntry]:
    """Steps of which the run's journal knows, repeated ones too, in order of time."""
    file = config.run_folder / "metrics.jsonl"
    entries = []
    for line in file.read_text().splitlines() if file.exists() else ():
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # a killed worker leaves half a line
        values = entry.get("values", {})
        if "train/outer_loss" in values:
            entries.append(JournalEntry(entry["time"] / 1000, entry["step"], values))
    return entries


class Training:
    """A run as users start it: `python -m stem_complete train CONFIG`, in a process of its own.

    Args:
        config: The run.
        folder: Takes the config file and what the driver prints.
        address: Of the Ray cluster.
        environment: Added to this process's.
        prefix: Command that starts the driver elsewhere, such as on another host.
        paced: Whether steps wait, see `faults.pace`; the run is the same otherwise.
    """

    def __init__(
        self,
        config: Config,
        folder: Path,
        address: str,
        *,
        environment: Mapping[str, str] = ENVIRONMENT,
        prefix: Sequence[str] = (),
        paced: bool = False,
    ) -> None:
        self.config = config
        self.output = folder / f"{config.name}.log"
        program = [str(PACED)] if paced else ["-m", "stem_complete"]
        train = [sys.executable, *program, "train", str(write_config(config, folder))]
        self.command = [*prefix, *train]
        self.environment = {**os.environ, **environment, "RAY_ADDRESS": address}
        self.process: subprocess.Popen[bytes] | None = None
        give_mlflow_database(config.storage)

    def start(self) -> None:
        """Starts the driver; also again, after it was lost."""
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                self.command, env=self.environment, stdout=output, stderr=output
            )

    def wait(self, timeout_s: float = TIMEOUT_S) -> int:
        """Exit code of the driver."""
        assert self.process is not None
        return self.process.wait(timeout_s)

    def signal(self, number: int) -> None:
        """Sends the driver a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # Nothing outlives a test that failed.
        if self.process is not None and self.process.poll() is None:
            kill_tree(psutil.Process(self.process.pid))
            self.process.wait()

    def printed(self) -> str:
        """All that the driver printed so far."""
        return self.output.read_text(errors="replace")

    def step(self) -> int:
        """Highest step that was ever taken."""
        return max((entry.step for entry in journal(self.config)), default=0)

    def wait_for_step(self, step: int) -> None:
        """Returns once `step` was taken."""
        self.wait_until(lambda: self.step() >= step, f"step {step}")

    def wait_until(self, condition: Callable[[], Any], what: str) -> Any:
        """As `wait_until`; fails at once, with what it printed, if the driver has ended."""

        def check() -> Any:
            value = condition()
            if not value and self.process is not None and self.process.poll() is not None:
                raise RuntimeError(f"training ended before {what}:\n{self.printed()[-3000:]}")
            return value

        return wait_until(check, what)


def train_undisturbed(config: Config, folder: Path) -> None:
    """Trains in as many processes as the run has workers, which is quicker than Ray.

    Raises:
        AssertionError: One of them failed.
    """
    file = folder / f"{config.name}.json"
    file.write_text(json.dumps(config.model_dump(mode="json")))
    num_processes = config.scaling.num_workers
    workers.run("training", num_processes, folder, file, folder=folder, timeout_s=None)


def recorded_steps(config: Config) -> list[int]:
    """Steps of the loss's curve in MLflow, which must have one run of this name."""
    (curve,) = TrackedRuns(default_uri(config.storage), "stem-complete").curves("train/outer_loss")
    return [int(step) for step in curve.steps]


def differing(run_folder: Path, other: Path) -> list[str]:
    """Names of the tensors in two runs' last checkpoints that are not equal bit by bit."""
    one, two = (Checkpoints(folder).latest() for folder in (run_folder, other))
    assert one is not None
    assert two is not None
    assert one.step == two.step
    assert one.state.keys() == two.state.keys()
    return [
        f"{part}/{name}"
        for part in one.state
        for name in one.state[part].keys() | two.state[part].keys()
        if not torch.equal(one.state[part][name], two.state[part][name])
    ]
