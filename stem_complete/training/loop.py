"""The training loop. It knows neither Ray nor MLflow, and is the same with one worker or many."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from stem_complete.config import Config
from stem_complete.data.loader import ImageBatch, training_batches
from stem_complete.data.store import MicrographStore
from stem_complete.distributed import StatisticsExchange, WorkerContext, gather_objects
from stem_complete.errors import ConfigError, TrainingError
from stem_complete.training.checkpoint import latest_checkpoint, save_checkpoint
from stem_complete.training.evaluate import Validator
from stem_complete.training.recording import Recorder, Recorders
from stem_complete.training.schedule import Schedule, Stage
from stem_complete.training.state import TrainingState, optimizer_step
from stem_complete.training.task import TaskOutput
from stem_complete.training.window import NONFINITE, Window, loss_statistics

_log = logging.getLogger(__name__)

CheckpointReport = Callable[[Mapping[str, float], Path | None], None]
"""Called on every worker after a checkpoint, with the latest metrics and, on rank 0, its folder."""


class TrainingResult(NamedTuple):
    """How a run ended.

    Attributes:
        step: Steps taken.
        metrics: Latest metrics.
        checkpoint: Folder of the last checkpoint; rank 0 only.
    """

    step: int
    metrics: dict[str, float]
    checkpoint: Path | None


def train(
    config: Config,
    context: WorkerContext,
    *,
    recorder: Recorder | None = None,
    report_checkpoint: CheckpointReport = lambda _metrics, _folder: None,
) -> TrainingResult:
    """Trains until the run's last step, from its newest checkpoint if it has one.

    Called by every worker of a group. Checkpoints go to `config.run_folder`, which all workers
    must see.

    Args:
        config: The run.
        context: This worker.
        recorder: Takes curves and pictures; used on rank 0.
        report_checkpoint: Called on every worker after each checkpoint.

    Raises:
        ConfigError: The config does not fit the store, the group or the run's checkpoint.
        TrainingError: Losses or gradients stayed non-finite.
    """
    return _Loop(config, context, recorder or Recorders(), report_checkpoint).run()


class _Loop:
    def __init__(
        self,
        config: Config,
        context: WorkerContext,
        recorder: Recorder,
        report_checkpoint: CheckpointReport,
    ) -> None:
        self.config, self.context, self.recorder = config, context, recorder
        self.report_checkpoint = report_checkpoint
        self.store = MicrographStore.open(config.data.store)
        self.micro_batch_size = _micro_batch_size(config, context)
        check_training_split(self.store)
        checkpoint = latest_checkpoint(config.run_folder)
        self.state = TrainingState(config, self.store, context.device, checkpoint)
        self.metrics = dict(checkpoint.metrics) if checkpoint else {}
        self.checkpoint = checkpoint.folder if checkpoint else None
        self.schedule = Schedule(
            config.optimizer, config.training.steps, config.training.freeze_mean_norm
        )
        self.model: nn.Module = self.state.task
        if context.world_size > 1:
            self.model = DistributedDataParallel(
                self.state.task, forward_sync_buffers=False, gradient_as_bucket_view=True
            )
        self.exchange = StatisticsExchange()
        self.validate = Validator(config, self.store, context)
        self.window = Window(context.device)

    def run(self) -> TrainingResult:
        training = self.config.training
        batches = iter(self._batches())
        self.model.train()
        while self.state.step < training.steps:
            step = self.state.step
            self.state.enter(self.schedule.at(step))
            self._train_step(step, [next(batches) for _ in range(self._micro_batches)])
            self.state.step = step = step + 1

            last = step == training.steps
            if step % training.log_every_steps == 0 or last:
                self._log(step, self.schedule.at(step - 1))
            if step % training.validate_every_steps == 0 or last:
                self._validate(step)
            if step % training.checkpoint_every_steps == 0 or last:
                self._save(step)
        return TrainingResult(self.state.step, self.metrics, self.checkpoint)

    def _train_step(self, step: int, batches: list[ImageBatch]) -> None:
        """One optimizer step on this worker's share of the global batch."""
        optimizer, task = self.state.optimizer, self.state.task
        optimizer.zero_grad(set_to_none=True)
        # DDP averages gradients over workers; the loss is the mean over the global batch.
        scale = self.context.world_size / self.config.training.batch_size
        outputs = []
        for number, batch in enumerate(batches, start=1):
            images, _, positions = batch.to(self.context.device)
            last = number == len(batches)
            with self._gradient_sync(last):
                output = cast("TaskOutput", self.model(images, step, positions))
                outputs.append(output)
                if last:
                    losses = loss_statistics(outputs)
                    self.exchange.start(task.statistics() | {"losses": losses})
                (output.loss.sum() * scale).backward()  # type: ignore[no-untyped-call]

        # Gradients are already the same on every worker, and the flag on losses is summed over all.
        sums = self.exchange.finish()
        norm = nn.utils.get_total_norm(
            [p.grad for group in optimizer.param_groups for p in group["params"]]
        )
        usable = norm.isfinite() & (sums["losses"][NONFINITE] == 0)
        optimizer_step(optimizer, usable)
        task.commit(sums, usable)
        self.window.add(sums["losses"], usable, batches, outputs)

    def _gradient_sync(self, last: bool) -> AbstractContextManager[None]:
        """Lets only the last micro-batch of a step exchange gradients."""
        if isinstance(self.model, DistributedDataParallel) and not last:
            return cast("AbstractContextManager[None]", self.model.no_sync())
        return nullcontext()

    def _log(self, step: int, stage: Stage) -> None:
        window = self.window.summary(self.config.training.batch_size)
        if window.skipped:
            crops = sorted(set().union(*gather_objects(window.nonfinite_crops)))
            if self.context.is_main:
                _log.warning(
                    "skipped %d steps up to step %d: loss or gradient not finite; crops %s",
                    window.skipped,
                    step,
                    crops,
                )
            if window.skipped_in_a_row >= self.config.training.max_nonfinite_steps:
                raise TrainingError(
                    expected="finite losses and gradients",
                    found=f"{window.skipped_in_a_row} steps in a row without (crops {crops})",
                    where=f"step {step}",
                    fix="lower optimizer.learning_rate, or look at those crops with "
                    "`stem-complete inspect`",
                )
        self.metrics.update(
            window.metrics,
            **{
                "train/learning_rate": stage.learning_rate,
                "train/trainer_learning_rate": stage.trainer_learning_rate,
                "train/beta1": stage.beta1,
            },
        )
        for name, alrc in self.state.task.alrc.items():
            self.metrics[f"train/{name}_threshold"] = float(cast("Tensor", alrc.threshold))
        if self.context.is_main:
            self.recorder.scalars(
                step, {k: v for k, v in self.metrics.items() if k.startswith("train/")}
            )

    def _validate(self, step: int) -> None:
        started = time.perf_counter()
        metrics, pictures = self.validate(self.state.task)
        self.metrics.update(metrics)
        if self.context.is_main:
            self.recorder.scalars(step, metrics)
            for name, picture in pictures.items():
                self.recorder.picture(step, name, picture)
        self.window.pause(time.perf_counter() - started)

    def _save(self, step: int) -> None:
        started = time.perf_counter()
        folder = None
        if self.context.is_main:
            folder = self.checkpoint = save_checkpoint(
                self.config.run_folder,
                step,
                self.state.state_dict(),
                config=self.config.model_dump(mode="json"),
                metrics=self.metrics,
                keep=self.config.training.keep_checkpoints,
            )
        self.report_checkpoint(self.metrics, folder)
        self.window.pause(time.perf_counter() - started)

    @property
    def _micro_batches(self) -> int:
        share = self.config.training.batch_size // self.context.world_size
        return share // self.micro_batch_size

    def _batches(self) -> torch.utils.data.DataLoader[ImageBatch]:
        training = self.config.training
        return training_batches(
            self.store,
            steps=range(self.state.step, training.steps),
            seed=training.seed,
            batch_size=training.batch_size,
            micro_batch_size=self.micro_batch_size,
            rank=self.context.rank,
            world_size=self.context.world_size,
            num_processes=self.config.data.loader_workers,
            pin_memory=self.context.device.type == "cuda",
        )


def _micro_batch_size(config: Config, context: WorkerContext) -> int:
    try:
        return config.micro_batch_size(context.world_size)
    except ValueError as error:
        raise ConfigError(
            expected="a batch that divides among the workers",
            found=str(error),
            where=config.name,
            fix="change training.batch_size, training.micro_batch_size or scaling.num_workers",
        ) from None


def check_training_split(store: MicrographStore) -> None:
    """Raises ConfigError if there is nothing to train on."""
    if not len(store.indices("train")):
        raise ConfigError(
            expected="micrographs in the store's training split",
            found="none",
            where=store.path,
            fix="ingest more images with `stem-complete ingest`",
        )
