"""The training loop. It knows neither Ray nor MLflow, and is the same with one worker or many."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Iterator
from typing import NamedTuple, cast

from torch import Tensor

from stem_complete.config import Config
from stem_complete.data.loader import Batch, training_batches
from stem_complete.data.store.store import MicrographStore
from stem_complete.distributed import (
    LONG_PHASE_S,
    Watchdog,
    WorkerContext,
    agree,
    all_ok,
    bit_digest,
    broadcast_tensors,
    environment,
    from_main,
    gather_objects,
)
from stem_complete.errors import ConfigError, TrainingError
from stem_complete.training.checkpoint import Checkpoints
from stem_complete.training.checkpoint_folder import Checkpoint
from stem_complete.training.completion import build_task
from stem_complete.training.recorder import Recorder, Recorders
from stem_complete.training.schedule import Schedule, Stage
from stem_complete.training.state import TrainingState, check_same_run, initialise_task
from stem_complete.training.step import TrainingStep
from stem_complete.training.stopping import StopRequest
from stem_complete.training.validation import Validator

SCORE = "validation/rmse"
"""What makes a checkpoint the best one; lower is better."""

_log = logging.getLogger(__name__)


class TrainingResult(NamedTuple):
    """How a run ended.

    Attributes:
        step: Steps taken.
        metrics: Latest metrics.
        finished: Whether that was the last step, or `training.max_minutes` are over; False if the
            run was asked to stop before.
    """

    step: int
    metrics: dict[str, float]
    finished: bool


def train(
    config: Config,
    context: WorkerContext,
    *,
    recorder: Recorder | None = None,
    stop: StopRequest | None = None,
) -> TrainingResult:
    """Trains until the run's last step, from its newest checkpoint if it has one.

    Called by every worker of a group. Only rank 0 reads and writes `config.run_folder`; the others
    get the state from it.

    Args:
        config: The run.
        context: This worker.
        recorder: Takes curves and pictures; used on rank 0.
        stop: Ends the run early, on all workers after the same step and with a checkpoint.

    Raises:
        ConfigError: The config does not fit the store, the group or the run's checkpoint, or the
            workers differ in what must be the same.
        CollectiveError: Another worker died or is stuck.
        TrainingError: Losses or gradients stayed non-finite, or the workers' moments diverged.
        StorageError: The run's folder, or the last checkpoint, could not be written.
    """
    with Watchdog(context, config.scaling.collective_timeout_s) as watchdog:
        loop = _Loop(config, context, recorder or Recorders(), stop or StopRequest(), watchdog)
        return loop.run()


class _Loop:
    def __init__(
        self,
        config: Config,
        context: WorkerContext,
        recorder: Recorder,
        stop: StopRequest,
        watchdog: Watchdog,
    ) -> None:
        self.config, self.context, self.recorder = config, context, recorder
        self.stop, self.watchdog = stop, watchdog
        watchdog.beat(0, "start", allow_s=LONG_PHASE_S)
        self.micro_batch_size = _micro_batch_size(config, context)
        self.store = all_ok(lambda: _open_store(config))
        agree(environment() | {"config": _digest(config), "store": self.store.fingerprint()})

        training = config.training
        self.checkpoints = Checkpoints(
            config.run_folder, keep=training.keep_checkpoints, keep_best=training.keep_best
        )
        from_main(self.checkpoints.check_writable)
        self.metrics: dict[str, float] = {}
        self.state = self._restored_state()
        self.schedule = Schedule(config.optimizer, training.steps, training.freeze_mean_norm)
        self.take_step = TrainingStep(config, self.state, context)
        self.window, self.flags = self.take_step.window, self.take_step.flags
        self.validate = Validator(config, self.store, context)
        self.stopping = self.out_of_time = False
        self.allow_s = LONG_PHASE_S  # for the next step, as all wait for a rank 0 that saves

    def run(self) -> TrainingResult:
        try:
            return self._run()
        finally:
            self.checkpoints.close()

    def _run(self) -> TrainingResult:
        training = self.config.training
        batches = self._batches()
        end_s = time.monotonic() + 60 * (training.max_minutes or math.inf)
        while self.state.step < training.steps and not self.stopping:
            step = self.state.step
            self.state.enter(self.schedule.at(step))
            self.watchdog.beat(step, "reading")
            micro_batches = [next(batches) for _ in range(self._micro_batches)]
            self.watchdog.beat(step, "training", allow_s=self.allow_s)
            self.take_step(
                micro_batches,
                stop=self.stop.reason is not None,
                out_of_time=time.monotonic() > end_s,
            )
            step = self.state.step

            last, score = step == training.steps, None
            if step % training.log_every_steps == 0 or last:
                self._log(step, self.schedule.at(step - 1))
            if step % training.validate_every_steps == 0 or last:
                score = self._validate(step)
            self._heed(self.flags.pop())
            due = step % training.checkpoint_every_steps == 0 or last or self.stopping
            self.allow_s = LONG_PHASE_S if due or score is not None else 0.0
            if due or self._is_best(score):
                self._save(step, score)
        self.watchdog.beat(self.state.step, "last checkpoint", allow_s=LONG_PHASE_S)
        if self.context.is_main:
            self.checkpoints.wait()
        finished = self.state.step == training.steps or self.out_of_time
        return TrainingResult(self.state.step, self.metrics, finished)

    def _heed(self, flags: tuple[int, list[float]] | None) -> None:
        """Acts on the flags of a step some steps ago, at the same step on every worker."""
        if flags is None:
            return
        step, (stop, out_of_time, differ, skipped_in_a_row) = flags
        if differ:
            digest = bit_digest(self.state.task.replicas(), self.context.device)
            digests = gather_objects(digest.tolist())
            others = [rank for rank, digest in enumerate(digests) if digest != digests[0]]
            raise TrainingError(
                expected="the same ALRC moments and running means on every worker, to the bit",
                found=f"others than rank 0's on ranks {others}" if others else "others for a step",
                where=f"{self.config.name}, noticed in step {step}",
                fix="start again from the last checkpoint; if it comes back, suspect those "
                "workers' hardware or libraries",
            )
        if skipped_in_a_row >= self.config.training.max_nonfinite_steps:
            crops = self._gathered(self.window.nonfinite_crops())
            raise TrainingError(
                expected="finite losses and gradients",
                found=f"{skipped_in_a_row:.0f} steps in a row without (crops {crops})",
                where=f"{self.config.name}, step {step}",
                fix="lower optimizer.learning_rate, or look at those crops with "
                "`stem-complete inspect`",
            )
        self.out_of_time |= bool(out_of_time and not stop)
        self.stopping |= bool(stop or out_of_time)
        if stop and self.stop.reason is not None:
            _log.warning("stopping with a checkpoint: %s", self.stop.reason)

    def _log(self, step: int, stage: Stage) -> None:
        # What follows waits for the device anyway: no flag need be left for later.
        for flags in self.flags.drain():
            self._heed(flags)
        metrics = self.window.metrics(self.config.batch_size)
        if metrics["train/skipped_steps"]:
            crops = self._gathered(self.window.nonfinite_crops())
            if self.context.is_main:
                _log.warning(
                    "skipped %.0f steps up to step %d: loss or gradient not finite; crops %s",
                    metrics["train/skipped_steps"],
                    step,
                    crops,
                )
        self.window.restart()
        self.metrics.update(
            metrics,
            **{
                "train/learning_rate": stage.learning_rate,
                "train/trainer_learning_rate": stage.trainer_learning_rate,
                "train/beta1": stage.beta1,
                "train/workers": float(self.context.world_size),
            },
        )
        for name, alrc in self.state.task.alrc.items():
            self.metrics[f"train/{name}_threshold"] = float(cast("Tensor", alrc.threshold))
        if self.context.is_main:
            self.recorder.scalars(
                step, {k: v for k, v in self.metrics.items() if k.startswith("train/")}
            )

    def _validate(self, step: int) -> float | None:
        """The score; None without validation examples."""
        started = time.perf_counter()
        self.watchdog.beat(step, "validation", allow_s=LONG_PHASE_S)
        with self.state.averaged() as task:
            metrics, pictures = self.validate(task)
        self.metrics.update(metrics)
        if self.context.is_main:
            self.recorder.scalars(step, metrics)
            for name, picture in pictures.items():
                self.recorder.picture(step, name, picture)
        self.window.pause(time.perf_counter() - started)
        return metrics.get(SCORE)

    def _is_best(self, score: float | None) -> bool:
        return self.context.is_main and score is not None and self.checkpoints.is_best(score)

    def _save(self, step: int, score: float | None) -> None:
        self.watchdog.beat(step, "checkpoint", allow_s=LONG_PHASE_S)
        if not self.context.is_main:
            return
        started = time.perf_counter()
        self.checkpoints.save(
            step,
            self.state.state_dict(),
            config=self.config.model_dump(mode="json"),
            metrics=self.metrics,
            score=score,
        )
        self.window.pause(time.perf_counter() - started)

    def _restored_state(self) -> TrainingState:
        """State of the newest checkpoint, which rank 0 reads for all; or a fresh one."""
        found: list[Checkpoint] = []

        def look() -> tuple[int, dict[str, float]] | None:
            checkpoint = self.checkpoints.latest()
            if checkpoint is None:
                return None
            check_same_run(self.config, checkpoint)
            found.append(checkpoint)
            return checkpoint.step, checkpoint.metrics

        resumed = from_main(look)
        size, device = self.store.crop_size, self.context.device
        task = build_task(self.config, (size, size)).to(device)
        if resumed is None and self.config.model.weight_norm_init:
            initialise_task(task, self.store, device)
        state = TrainingState(self.config, task)
        if resumed is not None:
            from_main(lambda: state.load(found[0]))
            broadcast_tensors(state.tensors())
            state.step, self.metrics = resumed
        return state

    def _gathered(self, crops: set[int]) -> list[int]:
        return sorted(set().union(*gather_objects(crops)))

    @property
    def _micro_batches(self) -> int:
        share = self.config.batch_size // self.context.world_size
        return share // self.micro_batch_size

    def _batches(self) -> Iterator[Batch]:
        training = self.config.training
        return training_batches(
            self.store,
            steps=range(self.state.step, training.steps),
            seed=training.seed,
            batch_size=self.config.batch_size,
            micro_batch_size=self.micro_batch_size,
            rank=self.context.rank,
            world_size=self.context.world_size,
            num_processes=self.config.data.loader_workers,
            pin_memory=self.context.device.type == "cuda",
        )


def _micro_batch_size(config: Config, context: WorkerContext) -> int:
    sizes = config.scaling.world_sizes
    if context.world_size not in sizes:
        raise ConfigError(
            expected=f"{sizes[0]} worker(s)"
            if len(sizes) == 1
            else f"{sizes[0]} to {sizes[-1]} workers",
            found=str(context.world_size),
            where=f"{config.name}, scaling.num_workers",
            fix=f"start as many processes, or add scaling.num_workers={context.world_size}",
        )
    return config.micro_batch_size(context.world_size)


def _open_store(config: Config) -> MicrographStore:
    store = MicrographStore.open(config.data.store)
    check_training_split(store)
    return store


def _digest(config: Config) -> str:
    text = json.dumps(config.model_dump(mode="json"), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def check_training_split(store: MicrographStore) -> None:
    """Raises ConfigError if there is nothing to train on."""
    if not len(store.indices("train")):
        raise ConfigError(
            expected="micrographs in the store's training split",
            found="none",
            where=store.path,
            fix="ingest more images with `stem-complete ingest`",
        )
