"""From a config to finished runs: checks, tracking, training, export."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from shlex import quote
from typing import Any, NamedTuple, Protocol, TypeVar

import yaml
from upath import UPath

from stem_complete.config import (
    CONFIG_FILE,
    Config,
    differences,
    expand_sweep,
    in_lines,
)
from stem_complete.console import (
    ProgressBar,
    TrainingProgress,
    aligned,
    counted,
    heading,
    say,
)
from stem_complete.distributed import (
    WorkerContext,
    from_main,
    set_threads,
    torchrun_context,
    under_torchrun,
)
from stem_complete.extras import program, require
from stem_complete.files import leave_removed_folder
from stem_complete.inference import MODEL_FOLDER
from stem_complete.inference.card import CARD_FILE
from stem_complete.inference.export import export_checkpoint
from stem_complete.launch.preparation import check, prepared
from stem_complete.launch.recording import recording, tracked_run
from stem_complete.storage.claim import Claim, claimed
from stem_complete.tracking import (
    URI_VARIABLE,
    TrackedRun,
    places,
    tracking_uri,
)
from stem_complete.tracking.links import kept_place
from stem_complete.training import (
    TASKS,
    StopRequest,
    TrainingResult,
    exit_on_sigterm,
    open_examples,
    stop_on_signals,
    train,
)
from stem_complete.training.ending import DivergedError, ending_kept
from stem_complete.training.resume import Before, find_before

_log = logging.getLogger(__name__)


class Training(Protocol):
    """Trains a run, on Ray or in this process."""

    def __call__(
        self, config: Config, tracked: TrackedRun | None, stop: StopRequest, claim: Claim | None
    ) -> TrainingResult:
        """How training ended; raises a StemCompleteError if it failed."""
        ...


T = TypeVar("T")


class Launching(Protocol):
    """Launches the runs of a sweep, on Ray or in this process."""

    def __call__(
        self, runs: Sequence[Config], launch_one: Callable[[Config, StopRequest], T]
    ) -> list[T]:
        """What `launch_one` returned for each run; raises what it raises.

        `launch_one` ends early once the request that it gets asks for that.
        """
        ...


class Outcome(NamedTuple):
    """A finished run.

    Attributes:
        config: What was run, with absolute paths.
        result: Steps, metrics, checkpoint.
        model: Folder of the exported model, local or a URL; None if the task makes none.
        tracking_uri: Where its curves are; None if tracking was off.
        places: How to see it in MLflow's page, see `tracking.places`.
    """

    config: Config
    result: TrainingResult
    model: UPath | None
    tracking_uri: str | None
    places: Mapping[str, str] = {}

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return {
            "name": self.config.name,
            "run_folder": str(self.config.run_folder),
            "model": self.model and str(self.model),
            "step": self.result.step,
            "metrics": self.result.metrics,
            "tracking_uri": self.tracking_uri,
            "places": dict(self.places),
        }


def launch(config: Config, *, local: bool = False) -> list[Outcome]:
    """Trains what `config` describes, from the last checkpoint if there is one, and exports it.

    Args:
        config: A run, or a sweep of runs. On Ray they are trained side by side where the cluster
            has room, at most `sweep.at_a_time`; else one after the other.
        local: Trains in this process instead of on Ray. Processes of torchrun always do.

    Raises:
        StemCompleteError: The config cannot be run, packages are missing, or training failed. A
            sweep whose runs diverge goes on with the others first. After any other error no run
            starts, and those under way stop with a checkpoint.
        KeyboardInterrupt: Ctrl-C was pressed, and a checkpoint written.
        SystemExit: SIGTERM was received, and a checkpoint written; the exit code is 143.
    """
    on_ray = not (local or under_torchrun())
    needed = {"ray": on_ray, "mlflow": config.tracking.enabled}
    require(*(package for package, needs in needed.items() if needs), purpose="training")
    config = prepared(config, local=local)
    runs = expand_sweep(config)
    for run in runs:
        check(run)
    if on_ray:
        from stem_complete.launch.cluster import check_address

        check_address(os.environ.get("RAY_ADDRESS", ""))
    with exit_on_sigterm():
        if on_ray:
            from stem_complete.launch.ray_group import launch_on_ray, train_on_ray

            several = _one_after_the_other
            if config.sweep is not None and config.sweep.at_a_time != 1 and len(runs) > 1:
                several = partial(launch_on_ray, at_a_time=config.sweep.at_a_time)
            return _launch_all(config, runs, WorkerContext(), train_on_ray, several)
        num_here = int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if under_torchrun() else 1
        set_threads(num_here, at_least=config.scaling.cpus_per_worker)
        with torchrun_context(use_gpu=config.scaling.use_gpu) as context:
            alone = partial(_train_in_process, context=context)
            return _launch_all(config, runs, context, alone, _one_after_the_other)


def _launch_all(
    config: Config,
    runs: Sequence[Config],
    context: WorkerContext,
    training: Training,
    several: Launching,
) -> list[Outcome]:
    uri = None
    if context.is_main:
        _say_what_is_trained(config)
        if config.tracking.enabled:
            uri = tracking_uri(config)
            if config.tracking.uri is None and os.environ.get(URI_VARIABLE):
                say(f"tracking at {uri}, as {URI_VARIABLE} says")
    if config.sweep is None:
        return [_launch_one(config, StopRequest(), uri, context, training)]
    # Whether any may not go on is known before the first one changes anything.
    from_main(lambda: [_find_before(run) for run in runs])
    with (
        _claimed(config, StopRequest()),
        tracked_run(config, uri, resume=True) as parent,
    ):
        one = partial(_launch_one, uri=uri, context=context, training=training, parent=parent)
        return _launch_each(config, runs, one, context, several)


def _launch_each(
    sweep: Config,
    runs: Sequence[Config],
    launch_one: Callable[[Config, StopRequest], Outcome],
    context: WorkerContext,
    several: Launching,
) -> list[Outcome]:
    """Runs of a sweep; one that diverges keeps none of the others from it."""

    def launch_though_it_may_diverge(run: Config, stop: StopRequest) -> Outcome | None:
        try:
            return launch_one(run, stop)
        except DivergedError as error:
            if context.is_main:
                _log.warning("%s; the sweep goes on", error)
            return None

    outcomes = several(runs, launch_though_it_may_diverge)
    diverged = [run.name for run, outcome in zip(runs, outcomes, strict=True) if outcome is None]
    if diverged:
        raise DivergedError(
            expected=f"{counted(len(runs), 'run')} with finite losses",
            found=f"{len(diverged)} that diverged: {', '.join(diverged)}",
            where=sweep.name,
            fix="reports count them; all others are done",
        )
    return [outcome for outcome in outcomes if outcome is not None]


def _one_after_the_other(
    runs: Sequence[Config], launch_one: Callable[[Config, StopRequest], T]
) -> list[T]:
    return [launch_one(run, StopRequest()) for run in runs]


def _launch_one(
    config: Config,
    stop: StopRequest,
    uri: str | None,
    context: WorkerContext,
    training: Training,
    parent: TrackedRun | None = None,
) -> Outcome:
    model = config.run_folder / MODEL_FOLDER if TASKS[config.task].exports else None
    seen: Mapping[str, str] = {}
    with _claimed(config, stop) as claim:
        before = from_main(lambda: _find_before(config))
        if context.is_main:
            heading(f"training {config.name}: {counted(config.training.steps, 'step')}")
            _say_how_it_goes_on(config, before)
        if before is not None and before.step > config.training.steps:
            result = TrainingResult(before.step, before.metrics, finished=True)
            if context.is_main and model and not (model / CARD_FILE).exists():
                _export(config, model)
        elif not context.is_main:
            result = _train(training, config, None, stop, None)
        else:
            (config.run_folder / CONFIG_FILE).write_text(_as_yaml(config))
            # A run without a checkpoint starts from step 0, and so must its curves.
            resume = before is not None
            rate = config.optimizer.learning_rate
            with (
                ending_kept(config.run_folder, stop, rate) as keep_ending,
                tracked_run(config, uri, resume=resume, parent=parent) as tracked,
            ):
                if tracked is not None and tracked.run_id is not None:
                    seen = places(tracked.uri, tracked.experiment_id, tracked.run_id)
                    say(aligned(seen))
                result = _train(training, config, tracked, stop, claim)
                if result.cause is not None:
                    keep_ending(result.cause, result.words)
                if model:
                    _export(config, model)
                # A server that did not answer at the start may have done so since.
                if (kept := kept_place(config.run_folder)) and tracked is not None:
                    seen = places(*kept)
    if context.is_main:
        complete = f"{program()} complete SCANS --model {quote(str(config.run_folder))}"
        model_places = {"model": model, "to complete": f"{complete} --output FOLDER"}
        say(aligned({**seen, **(model_places if model else {})}))
    return Outcome(config, result, model, uri, seen)


@contextmanager
def _claimed(config: Config, stop: StopRequest) -> Iterator[Claim]:
    """Holds a run, on rank 0 for all; asks to stop once another process has taken it over."""
    with ExitStack() as stack:
        yield from_main(lambda: stack.enter_context(claimed(config.run_folder, on_loss=stop)))


def _find_before(config: Config) -> Before | None:
    return find_before(config, open_examples(config))


def _say_how_it_goes_on(config: Config, before: Before | None) -> None:
    """Says from where a run goes on, and in what it differs from before."""
    if before is None:
        return
    num_crops = len(open_examples(config))
    if before.step > config.training.steps:
        say(
            f"{config.name} was trained for {counted(before.step, 'step')}, more than "
            f"training.steps={config.training.steps}: nothing to do"
        )
        return
    if before.examples is None:
        _log.warning(
            "%s does not say which crops it was trained on; training goes on with the %d of %s",
            *(before.folder, num_crops, config.data.store),
        )
    elif before.examples.num < num_crops:
        say(
            f"{config.data.store} has {counted(num_crops, 'crop')} by now; {config.name} goes on "
            f"with the {before.examples.num:,} that it began with (to use all, train under another "
            "name)"
        )
    if before.changed:
        _log.warning(
            "%s goes on from step %d with other settings than before: %s",
            *(config.name, before.step, ", ".join(before.changed)),
        )


def _train(
    training: Training,
    config: Config,
    tracked: TrackedRun | None,
    stop: StopRequest,
    claim: Claim | None,
) -> TrainingResult:
    """Trains to the end. A run that a signal stopped ends this process as that signal does."""
    leave_removed_folder()
    with stop_on_signals(stop):
        result = training(config, tracked, stop, claim)
    if claim is not None and stop.signal is None:
        claim.check()  # losing it stops a run, too
    if result.finished:
        if claim is not None and result.cause is not None:
            again = "started again, it goes on"
            if result.cause == "patience":
                again = "it is finished, unless training.patience is raised"
            say(
                f"{config.name} ended after {result.step:,} of "
                f"{counted(config.training.steps, 'step')}, as {result.words}; {again}"
            )
        return result
    if result.step:
        say(f"{config.name} stopped after step {result.step}; started again, it goes on")
    raise stop.exit()


def _export(config: Config, model: UPath) -> None:
    with ProgressBar("exporting the model") as bar:
        export_checkpoint(config.run_folder, model, which=config.training.export, progress=bar.show)


def _train_in_process(
    config: Config,
    tracked: TrackedRun | None,
    stop: StopRequest,
    claim: Claim | None,
    *,
    context: WorkerContext,
) -> TrainingResult:
    """Trains in this process, the only worker or one of torchrun's."""
    tracked = from_main(lambda: tracked)
    show = partial(
        TrainingProgress,
        *(config.name, config.training.steps, config.batch_size, config.training.max_minutes),
    )
    with recording(context, tracked, show) as recorder:
        return train(config, context, recorder=recorder, stop=stop, claim=claim)


def _say_what_is_trained(config: Config) -> None:
    """Where it is kept, and what differs from the defaults."""
    say(aligned({"run": config.run_folder, "data": config.data.store}))
    changes = in_lines(differences(config.model_dump(mode="json")))
    whole = "each run's folder" if config.sweep else config.run_folder
    say(f"settings that differ from the defaults; {whole}/{CONFIG_FILE} has all")
    for line in changes or ["none"]:
        say(f"  {line}")


def _as_yaml(config: Config) -> str:
    return str(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
