"""The training loop: the same for any task and any number of workers. No Ray and no MLflow here."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import chain
from typing import NamedTuple

from stem_complete.config import Config
from stem_complete.console import counted
from stem_complete.data.examples import Examples, ExamplesRecord, check_recorded, record_of
from stem_complete.data.loader import Batch, training_batches
from stem_complete.distributed import (
    LONG_PHASE_S,
    Watchdog,
    WorkerContext,
    agree,
    all_ok,
    broadcast_tensors,
    differing_tensors,
    environment,
    from_main,
    gather_objects,
)
from stem_complete.errors import ConfigError, TrainingError
from stem_complete.extras import program
from stem_complete.storage.claim import Claim, ClaimLostError
from stem_complete.training.checkpoint import Checkpoints
from stem_complete.training.checkpoint_folder import Checkpoint
from stem_complete.training.ending import Cause, DivergedError
from stem_complete.training.hard_examples import HardExamples, with_taken
from stem_complete.training.patience import BestScore, best_after
from stem_complete.training.recorder import Recorder, Recorders
from stem_complete.training.resume import check_same_run
from stem_complete.training.schedule import Stage, build_schedule
from stem_complete.training.skipped_steps import SkippedSteps, what_was_not_finite
from stem_complete.training.spikes import Spike, hardest
from stem_complete.training.state import TrainingState, build_state
from stem_complete.training.step import build_step
from stem_complete.training.stopping import StopRequest
from stem_complete.training.task import TaskBuilder
from stem_complete.training.tasks import build_named
from stem_complete.training.validation import validate

_MAX_NAMES = 3
"""Names of tensors in an error; a worker with wrong weights has hundreds."""

_log = logging.getLogger(__name__)


class TrainingResult(NamedTuple):
    """How a run ended.

    Attributes:
        step: Steps taken.
        metrics: Latest metrics.
        finished: Whether that was the last step, or time or patience are over; False if the run was
            asked to stop before.
        cause: Why it ended before its last step, if it is finished.
        words: The same for a reader.
    """

    step: int
    metrics: dict[str, float]
    finished: bool
    cause: Cause | None = None
    words: str = ""


def train(
    config: Config,
    context: WorkerContext,
    *,
    recorder: Recorder | None = None,
    stop: StopRequest | None = None,
    claim: Claim | None = None,
    build_task: TaskBuilder = build_named,
) -> TrainingResult:
    """Trains until the run's last step, from its newest checkpoint if it has one.

    Called by every worker of a group. Only rank 0 reads and writes `config.run_folder`; the others
    get the state from it.

    Args:
        config: The run.
        context: This worker.
        recorder: Takes curves and pictures; used on rank 0.
        stop: Ends the run early, on all workers after the same step and with a checkpoint.
        claim: What lets rank 0 write the run; None if no other process can.
        build_task: Makes what is trained; by default what the config names.

    Raises:
        ConfigError: The config does not fit the data, the group or the run's checkpoint, or the
            workers differ in what must be the same.
        CollectiveError: Another worker died or is stuck.
        TrainingError: Losses or gradients stayed non-finite, or the workers' states diverged.
        StorageError: The run's folder, or the last checkpoint, could not be written.
        ClaimLostError: Another process has taken over the run.
    """
    with Watchdog(context, config.scaling.collective_timeout_s) as watchdog:
        watchdog.beat(0, "start", allow_s=LONG_PHASE_S)
        loop = _Loop(
            config,
            context,
            recorder or Recorders(),
            stop or StopRequest(),
            claim,
            watchdog,
            build_task,
        )
        with closing(loop.checkpoints):
            return loop.run()


class _Loop:
    def __init__(
        self,
        config: Config,
        context: WorkerContext,
        recorder: Recorder,
        stop: StopRequest,
        claim: Claim | None,
        watchdog: Watchdog,
        build_task: TaskBuilder,
    ) -> None:
        self.config, self.context, self.recorder = config, context, recorder
        self.stop, self.watchdog = stop, watchdog
        training = config.training
        self.micro_batch_size = _micro_batch_size(config, context)
        task, examples = all_ok(lambda: build_task(config))
        agree(environment() | {"config": _hash(config)})
        self.checkpoints = Checkpoints(
            config.run_folder,
            keep=training.keep_checkpoints,
            keep_best=training.keep_best,
            claim=claim,
        )
        from_main(self.checkpoints.check_writable)
        checkpoint = all_ok(self._newest_checkpoint)
        # Examples that were appended since the run began are none of it.
        self.record = from_main(lambda: _record(checkpoint, examples))
        self.examples = examples.first(min(self.record.num, len(examples)))
        agree({"data": self.examples.fingerprint()})
        _check_patience(config, self.examples)

        self.task = task.to(context.device)
        self.metrics: dict[str, float] = {}
        self.spikes: tuple[Spike, ...] = ()
        self.best: BestScore | None = None
        self.hard_examples = _hard_examples(config, self.examples)
        self.state = self._restored_state(checkpoint)
        names = [*self.task.parameter_groups(), *self.task.running]
        self.schedule = build_schedule(config, names)
        self.take_step = build_step(config, self.state, context)
        self.stopping = self.out_of_time = False
        self.skipped_in_a_row = 0
        skips = config.training.gradient_clipping.kind == "skip"
        self.skipped = SkippedSteps(if_high=skips)

    def run(self) -> TrainingResult:
        training = self.config.training
        batches = self._batches()
        end_s = time.monotonic() + 60 * (training.max_minutes or math.inf)
        allow_s = LONG_PHASE_S  # for the first step, and for one after which all wait for rank 0
        while self.state.step < training.steps and not (self.stopping or self._out_of_patience):
            step = self.state.step
            self.state.enter(self.schedule.at(step))
            self.watchdog.beat(step, "reading")
            micro_batches = [next(batches) for _ in range(self._num_micro_batches)]
            if self.hard_examples is not None:
                taken = self.hard_examples.take(step)
                micro_batches = [with_taken(b, step, taken, self.examples) for b in micro_batches]
            self.watchdog.beat(step, "training", allow_s=allow_s)
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
            last |= self._out_of_patience
            self._act_on_flags(self.take_step.flags.pop())
            due = step % training.checkpoint_every_steps == 0 or last or self.stopping
            allow_s = LONG_PHASE_S if due or score is not None else 0.0
            if due or score is not None:
                # The copy waits for the device anyway, and only a sound state is worth one.
                self._act_on_all_flags()
                self._note_spikes()
                due = due or self.stopping
                if self._is_sound(step, score, last=last) and (due or self._is_best(score)):
                    self._save(step, score)
        self.watchdog.beat(self.state.step, "last checkpoint", allow_s=LONG_PHASE_S)
        if self.context.is_main:
            self.checkpoints.wait()
        return self._result()

    def _result(self) -> TrainingResult:
        training, step = self.config.training, self.state.step
        cause: Cause | None = None
        words = ""
        if step >= training.steps:
            pass
        elif self._out_of_patience:
            assert self.best is not None
            cause = "patience"
            words = (
                f"validation/{self.task.score} was best at step {self.best.step:,} "
                f"({self.best.score:.4g}), and training.patience={training.patience} is over"
            )
        elif self.out_of_time:
            cause, words = "time", f"training.max_minutes={training.max_minutes:g} were over"
        finished = step >= training.steps or cause is not None
        return TrainingResult(step, self.metrics, finished, cause, words)

    @property
    def _out_of_patience(self) -> bool:
        """Whether validations do not get better any more; the same on every worker."""
        patience = self.config.training.patience
        return self.best is not None and self.best.num_since >= (patience or math.inf)

    def _act_on_flags(self, flags: tuple[int, list[float]] | None) -> None:
        """Stops or fails as the flags of a step say, at the same step on every worker."""
        if flags is None:
            return
        step, (stop, out_of_time, skipped_in_a_row, *losses) = flags
        if self.hard_examples is not None:
            self.hard_examples.learn(step, losses)
        self.skipped_in_a_row = round(skipped_in_a_row)
        self.checkpoints.settle(step + 1, sound=not self.skipped_in_a_row)
        if self.skipped_in_a_row >= self.config.training.max_nonfinite_steps:
            raise self._diverged(step)
        self.out_of_time |= bool(out_of_time and not stop)
        self.stopping |= bool(stop or out_of_time)
        if stop and self.stop.reason is not None:
            _log.warning("stopping with a checkpoint: %s", self.stop.reason)

    def _act_on_all_flags(self) -> None:
        for flags in self.take_step.flags.drain():
            self._act_on_flags(flags)

    def _is_sound(self, step: int, score: float | None, *, last: bool) -> bool:
        """Whether the state may become a checkpoint; the same on every worker.

        From ruined weights no loss is finite. So none is written while steps are skipped: the run
        must be able to go on from its newest one. At the end validation can speak for the weights.

        Raises:
            TrainingError: That of the last step may not.
        """
        is_doubted = self.skipped_in_a_row > 0
        if last and score is not None and math.isfinite(score):
            is_doubted = False
        if not is_doubted and self.state.is_finite():
            return True
        if last:
            raise self._diverged(step)
        if self.stopping and self.context.is_main:
            _log.warning("no checkpoint of step %d, as its losses are not finite", step)
        return False

    def _diverged(self, step: int) -> DivergedError:
        """What to raise. The curves end with NaN, by which those who read them know."""
        if self.context.is_main:
            losses = {f"train/{name}_loss": math.nan for name in self.task.loss_names}
            self.recorder.scalars(self.state.step, losses)
        lower = self.config.optimizer.learning_rate / 2
        found, look = "weights or moments that are not", ""
        if self.skipped_in_a_row:
            examples = self._nonfinite_examples()
            skipped = counted(self.skipped_in_a_row, "step")
            found = f"{skipped} in a row without ({what_was_not_finite(examples)})"
            if examples:
                look = f"; or look at those examples with `{program()} inspect`"
        return DivergedError(
            expected="finite losses, gradients and weights",
            found=found,
            where=f"{self.config.name}, step {step}",
            fix=f"start again with a lower rate, such as optimizer.learning_rate={lower:g}, which "
            f"goes on from before those steps{look}",
        )

    def _log(self, step: int, stage: Stage) -> None:
        # What follows waits for the device anyway: no flag need be left for later.
        self._act_on_all_flags()
        self._check_replicas(step)
        self._note_spikes()
        window = self.take_step.window
        metrics = window.metrics(self.config.batch_size) | self._largest_losses()
        if num_skipped := round(metrics["train/skipped_steps"]):
            told = self.skipped.tell(num_skipped, step, self._nonfinite_examples())
            if told and self.context.is_main:
                _log.warning("%s", told)
        window.restart()
        metrics |= self._settings(stage)
        self.metrics.update(metrics)
        if self.context.is_main:
            self.recorder.scalars(step, metrics)

    def _settings(self, stage: Stage) -> dict[str, float]:
        """What holds now: learning rates, beta1, thresholds, the number of workers."""
        first, *others = self.task.parameter_groups()
        settings = {"train/learning_rate": stage.rate(first)}
        settings |= {f"train/{group}_learning_rate": stage.rate(group) for group in others}
        if stage.betas is not None:
            settings["train/beta1"] = stage.betas[0]
        if self.hard_examples is not None:
            settings["train/hard_threshold"] = self.hard_examples.threshold
        settings["train/workers"] = float(self.context.world_size)
        thresholds = self.task.alrc.thresholds()
        return settings | {f"train/{name}_threshold": float(t) for name, t in thresholds.items()}

    def _check_replicas(self, step: int) -> None:
        """Fails if weights, optimizer state, moments or buffers are not the same on all workers."""
        differing = differing_tensors(self.state.replicas())
        if not differing:
            return
        places = [f"{name} on ranks {ranks}" for name, ranks in differing.items()]
        more = f" and {len(places) - _MAX_NAMES} more" if len(places) > _MAX_NAMES else ""
        raise TrainingError(
            expected="the same weights, optimizer state and statistics on every worker, to the bit",
            found=f"others than rank 0's: {', '.join(places[:_MAX_NAMES])}{more}",
            where=f"{self.config.name}, noticed after step {step}",
            fix="start again from the last checkpoint; if it comes back, suspect those workers' "
            "hardware or libraries",
        )

    def _validate(self, step: int) -> float | None:
        """The score; None without validation examples."""
        started = time.perf_counter()
        self.watchdog.beat(step, "validation", allow_s=LONG_PHASE_S)
        with self.state.averaged() as task:
            metrics, pictures = validate(
                task,
                self.examples,
                self.context,
                num_examples=self.config.training.validation_examples,
                num_pictures=self.config.training.num_pictures,
            )
        self.metrics.update(metrics)
        if self.context.is_main:
            self.recorder.scalars(step, metrics)
            for name, picture in pictures.items():
                self.recorder.picture(step, name, picture)
        self.take_step.window.pause(time.perf_counter() - started)
        score = metrics.get(f"validation/{self.task.score}")
        if score is not None:
            self.best = best_after(self.best, score, step)
        return score

    def _is_best(self, score: float | None) -> bool:
        return self.context.is_main and score is not None and self.checkpoints.is_best(score)

    def _save(self, step: int, score: float | None) -> None:
        self.watchdog.beat(step, "checkpoint", allow_s=LONG_PHASE_S)
        if not self.context.is_main:
            return
        if isinstance(self.checkpoints.failed, ClaimLostError):
            self.stop(str(self.checkpoints.failed))
        started = time.perf_counter()
        self.checkpoints.save(
            step,
            self.state.state_dict(),
            config=self.config.model_dump(mode="json"),
            metrics=self.metrics,
            score=score,
            examples=self.record,
            spikes=self.spikes,
            best=self.best,
            hard_examples=None if self.hard_examples is None else self.hard_examples.state(),
            hold=True,
        )
        self.take_step.window.pause(time.perf_counter() - started)

    def _restored_state(self, checkpoint: Checkpoint | None) -> TrainingState:
        """State of the newest checkpoint, which rank 0 has read for all; or a fresh one."""
        state = build_state(self.config, self.task)
        outline = from_main(lambda: checkpoint and checkpoint.zeros("meta"))
        if outline is None:
            self.task.initialise(self.examples)
            return state
        all_ok(lambda: state.load(checkpoint or outline.zeros("cpu")))
        broadcast_tensors(list(state.replicas().values()))
        self.metrics, self.spikes, self.best = outline.metrics, outline.spikes, outline.best
        if self.hard_examples is not None and outline.hard_examples is not None:
            self.hard_examples.load(outline.hard_examples)
        return state

    def _newest_checkpoint(self) -> Checkpoint | None:
        """On rank 0, if there is one."""
        checkpoint = self.checkpoints.latest() if self.context.is_main else None
        if checkpoint is not None:
            check_same_run(self.config, checkpoint.config, checkpoint.folder)
        return checkpoint

    def _note_spikes(self) -> None:
        """Keeps the losses that were clipped hardest, of all workers and so far."""
        found = gather_objects(self.take_step.window.spikes())
        self.spikes = hardest(chain(self.spikes, *found))

    def _largest_losses(self) -> dict[str, float]:
        """The largest loss of each name in the window, of all workers."""
        largest = zip(*gather_objects(self.take_step.window.largest()), strict=True)
        return {
            f"train/{name}_largest_loss": max(of_workers)
            for name, of_workers in zip(self.task.loss_names, largest, strict=True)
            if math.isfinite(max(of_workers))
        }

    def _nonfinite_examples(self) -> list[int]:
        """Numbers of those examples of all workers whose losses were not finite in the window."""
        return sorted(set().union(*gather_objects(self.take_step.window.nonfinite_examples())))

    @property
    def _num_micro_batches(self) -> int:
        share = self.config.batch_size // self.context.world_size
        return share // self.micro_batch_size

    def _batches(self) -> Iterator[Batch]:
        training = self.config.training
        return training_batches(
            self.examples,
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


def _check_patience(config: Config, examples: Examples) -> None:
    if config.training.patience is not None and not len(examples.indices("validation")):
        raise ConfigError(
            expected="validation examples, as training.patience is set",
            found="none",
            where=f"{config.name}, {config.data.store}",
            fix="add training.patience=null",
        )


def _hard_examples(config: Config, examples: Examples) -> HardExamples | None:
    settings = config.training.hard_examples
    if settings is None:
        return None
    return HardExamples(
        settings.kept,
        settings.probability,
        numbers=examples.indices("train"),
        seed=config.training.seed,
        batch_size=config.batch_size,
    )


def _record(checkpoint: Checkpoint | None, examples: Examples) -> ExamplesRecord:
    """The examples that a run began with, of which `examples` must be the first."""
    if checkpoint is None or checkpoint.examples is None:
        return record_of(examples)
    check_recorded(examples, checkpoint.examples, checkpoint.folder)
    return checkpoint.examples


def _hash(config: Config) -> str:
    text = json.dumps(config.model_dump(mode="json"), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
