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
        _check_workers(config, context)
        _check_training_split(self.store, config)
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
        self.window = _Window(context.device)

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
                    losses = _loss_statistics(outputs)
                    self.exchange.start(task.statistics() | {"losses": losses})
                (output.loss.sum() * scale).backward()  # type: ignore[no-untyped-call]

        # Gradients are already the same on every worker, and the flag on losses is summed over all.
        sums = self.exchange.finish()
        norm = nn.utils.get_total_norm(
            [p.grad for group in optimizer.param_groups for p in group["params"]]
        )
        usable = norm.isfinite() & (sums["losses"][_NONFINITE] == 0)
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
        return share // self.config.micro_batch_size

    def _batches(self) -> torch.utils.data.DataLoader[ImageBatch]:
        training = self.config.training
        return training_batches(
            self.store,
            steps=range(self.state.step, training.steps),
            seed=training.seed,
            batch_size=training.batch_size,
            micro_batch_size=self.config.micro_batch_size,
            rank=self.context.rank,
            world_size=self.context.world_size,
            num_processes=self.config.data.loader_workers,
            pin_memory=self.context.device.type == "cuda",
        )


_OUTER, _INNER, _FINITE, _NONFINITE, _CLIPPED = 0, 1, 2, 3, slice(4, 6)
"""Places in the loss statistics."""


def _loss_statistics(outputs: list[TaskOutput]) -> Tensor:
    """Sums over this worker's examples, [6]: finite losses, counts, clipped (outer, inner)."""
    outer = torch.cat([output.outer.detach() for output in outputs])
    inner = torch.cat([output.inner.detach() for output in outputs])
    finite = outer.isfinite() & inner.isfinite()
    parts = (
        torch.where(finite, outer, 0.0).sum(),
        torch.where(finite, inner, 0.0).sum(),
        finite.sum().float(),
        (~finite).sum().float(),
    )
    clipped = torch.stack([output.num_clipped for output in outputs]).sum(0)
    return torch.cat((torch.stack(parts), clipped))


class _WindowSummary(NamedTuple):
    metrics: dict[str, float]
    skipped: int
    skipped_in_a_row: int
    nonfinite_crops: set[int]


class _Window:
    """What happened since the last log entry; stays on the device until then."""

    def __init__(self, device: torch.device) -> None:
        self.losses = torch.zeros(6, dtype=torch.float64, device=device)
        self.skipped = torch.zeros((), dtype=torch.int64, device=device)
        self.skipped_in_a_row = torch.zeros((), dtype=torch.int64, device=device)
        self.examples: list[tuple[Tensor, Tensor]] = []
        self.num_steps = 0
        self.started = time.perf_counter()

    def add(
        self, losses: Tensor, usable: Tensor, batches: list[ImageBatch], outputs: list[TaskOutput]
    ) -> None:
        self.losses += losses
        self.skipped += ~usable
        self.skipped_in_a_row.copy_(torch.where(usable, 0, self.skipped_in_a_row + 1))
        for batch, output in zip(batches, outputs, strict=True):
            self.examples.append((batch.crops, (output.outer + output.inner).detach()))
        self.num_steps += 1

    def pause(self, seconds: float) -> None:
        """Leaves out time that was not spent on training."""
        self.started += seconds

    def summary(self, batch_size: int) -> _WindowSummary:
        """Means over the window; starts the next one. Waits for the device."""
        losses = self.losses.tolist()
        finite = max(losses[_FINITE], 1)
        elapsed = max(time.perf_counter() - self.started, 1e-9)
        outer_clipped, inner_clipped = losses[_CLIPPED]
        metrics = {
            "train/outer_loss": losses[_OUTER] / finite,
            "train/inner_loss": losses[_INNER] / finite,
            "train/outer_clip_fraction": outer_clipped / finite,
            "train/inner_clip_fraction": inner_clipped / finite,
            "train/nonfinite_examples": losses[_NONFINITE],
            "train/skipped_steps": float(self.skipped),
            "train/examples_per_s": self.num_steps * batch_size / elapsed,
        }
        skipped, in_a_row = int(self.skipped), int(self.skipped_in_a_row)
        crops: set[int] = set()
        if skipped:
            for numbers, values in self.examples:
                crops.update(numbers[~values.isfinite().cpu()].tolist())
        self.losses.zero_()
        self.skipped.zero_()
        self.examples.clear()
        self.num_steps, self.started = 0, time.perf_counter()
        return _WindowSummary(metrics, skipped, in_a_row, crops)


def _check_workers(config: Config, context: WorkerContext) -> None:
    share = context.world_size * config.micro_batch_size
    if config.training.batch_size % share:
        raise ConfigError(
            expected=f"training.batch_size to be a multiple of {share} "
            f"({context.world_size} workers x micro-batches of {config.micro_batch_size})",
            found=str(config.training.batch_size),
            where=config.name,
            fix="change training.batch_size, training.micro_batch_size or scaling.num_workers",
        )


def _check_training_split(store: MicrographStore, config: Config) -> None:
    if not len(store.indices("train")):
        raise ConfigError(
            expected="micrographs in the store's training split",
            found="none",
            where=config.data.store,
            fix="ingest more images with `stem-complete ingest`",
        )
