"""Training on Ray: a worker group, and another whenever the cluster changes, until it is done.

Ray Train restarts a group that lost workers. What it leaves to us is here: a group that stops with
a checkpoint when asked (preemption, Ctrl-C, `ray job stop`, room for more workers) and the one that
follows it; and a new start when Ray Train's own controller dies.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import Any

import ray
import ray.train
import ray.train.torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from stem_complete.config import Config
from stem_complete.console import TrainingProgress, format_seconds, say, waiting
from stem_complete.distributed import PROCESS_GROUP_TIMEOUT_S
from stem_complete.errors import StemCompleteError, TrainingError
from stem_complete.launch.mailbox import POLL_S, GroupStarted, Mailbox, Metrics
from stem_complete.launch.ray_worker import PreemptibleTorchConfig, train_worker
from stem_complete.tracking import TrackedRun
from stem_complete.training import StopRequest, TrainingResult

_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",
    # For places on nodes that Ray saw, but may have been lost since: it looks every 20 s.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "30",
    # A cluster of this run's own shares its cores with the workers: a sixth of what Ray's processes
    # took of them went into figures of the dashboard, most of which MLflow has, too.
    "RAY_enable_metrics_collection": "0",
    "RAY_task_events_report_interval_ms": "0",
    "REPORTER_UPDATE_INTERVAL_MS": "60000",
}
"""Of Ray's, where the user's environment says nothing else."""

SILENCE_S = 15.0
"""After so long without a word from the workers, the person in front is told what Ray has."""

ROOM_LASTS_S = 21.0
"""Room for more workers that is older than this is used: Ray Train looks for new nodes every 20 s,
and gives a group no place there before."""


def train_on_ray(config: Config, tracked: TrackedRun | None, stop: StopRequest) -> TrainingResult:
    """Trains on Ray Train worker groups: on the cluster of this job, or on a local one.

    Args:
        config: The run.
        tracked: Its MLflow run.
        stop: Ends the run early with a checkpoint.

    Raises:
        StemCompleteError: Training failed; from the workers, or because there are none.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    driver = _Driver(config, tracked, stop)
    try:
        while True:
            with _ray_cluster(config):
                result = driver.run()
            if result is not None:
                return result
    finally:
        driver.progress.close()


class _Attempt(threading.Thread):
    """One call of `fit`. Not on the main thread, where Ray would take over Ctrl-C."""

    def __init__(self, trainer: ray.train.torch.TorchTrainer) -> None:
        super().__init__(name="ray-train", daemon=True)
        self.trainer = trainer
        self.outcome: TrainingResult | StemCompleteError | None = None
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            outcome = self.trainer.fit().return_value
        except Exception as error:  # handed to the main thread, which knows what to do
            self.error = error
        else:
            self.outcome = TrainingResult(*outcome) if isinstance(outcome, tuple) else outcome


class _Driver:
    """Keeps worker groups going, shows what they say, and passes on wishes to stop."""

    def __init__(self, config: Config, tracked: TrackedRun | None, stop: StopRequest) -> None:
        self.config, self.tracked, self.stop = config, tracked, stop
        self.num_controllers_lost = 0
        self.num_workers = 0
        self.room_since: float | None = None
        self.last_step: tuple[int, float] | None = None  # and when it was heard of
        self.next_look = 0.0
        self.resize_pause_s = config.scaling.resize_every_s
        self.next_notice = 0.0
        self.progress = TrainingProgress(config.name, config.training.steps, config.batch_size)

    def run(self) -> TrainingResult | None:
        """How training ended; None if Ray Train's controller died.

        It leaves a placement group behind that holds the workers' places, until Ray ends this job:
        the caller must connect to Ray anew.
        """
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self.mailbox = (
            ray.remote(num_cpus=0)(Mailbox)
            .options(scheduling_strategy=here, max_restarts=-1, max_task_retries=-1)
            .remote()
        )
        while True:
            # Ray wants a folder for what it notes of a group. Nothing there is needed later.
            with TemporaryDirectory(prefix="stem-complete-ray-") as folder:
                outcome = self._run_group(folder)
            if isinstance(outcome, StemCompleteError):
                raise outcome
            if outcome is None or outcome.finished or self.stop.reason is not None:
                return outcome
            say(f"stopped after step {outcome.step} with a checkpoint, and going on")

    def _run_group(self, folder: str) -> TrainingResult | StemCompleteError | None:
        """How a worker group ended; None if Ray Train's controller died with it."""
        ray.get(self.mailbox.ask_to_stop.remote(None))
        told = False
        started = time.monotonic()
        self.next_notice = started + SILENCE_S
        self.room_since, self.next_look = None, math.inf
        attempt = _Attempt(self._trainer(folder))
        attempt.start()
        while attempt.is_alive():
            attempt.join(POLL_S)
            silent_s = min(self._show(), time.monotonic() - started)
            if self.stop.reason is not None and not told:
                say(f"{self.stop.reason}: stopping with a checkpoint (again: without)")
                told = True
                self.mailbox.ask_to_stop.remote(self.stop.reason)
            if silent_s > SILENCE_S:
                self._say_what_is_missing(silent_s)
                if told:
                    return TrainingResult(self.last_step[0] if self.last_step else 0, {}, False)
                self.room_since = None
            elif not told and self._has_room_for_more():
                told = True
                say("the cluster has room for more workers: the run stops, to go on with them")
                self.mailbox.ask_to_stop.remote("the cluster has room for more workers")
        self._show()
        if attempt.error is None:
            assert attempt.outcome is not None
            return attempt.outcome
        return self._judge(attempt.error)

    def _judge(self, error: Exception) -> TrainingError | None:
        """None if another group may do better, else what to tell the user."""
        if isinstance(error, ray.exceptions.RayActorError):
            self.num_controllers_lost += 1
            if 0 <= self.config.scaling.max_failures < self.num_controllers_lost:
                return self._failure(error)
            say(f"Ray Train's controller died ({_in_short(error)}); starting another")
            return None
        if isinstance(error, (ray.train.TrainingFailedError, ray.exceptions.RayError)):
            return self._failure(error)
        raise error

    def _failure(self, error: Exception) -> TrainingError:
        failure = TrainingError(
            expected="workers that finish",
            found=_in_short(error),
            where=self.config.name,
            fix="see Ray's logs of the workers; started again, it goes on from the last checkpoint",
        )
        failure.__cause__ = error
        return failure

    def _trainer(self, folder: str) -> ray.train.torch.TorchTrainer:
        scaling = self.config.scaling
        sizes = scaling.world_sizes
        return ray.train.torch.TorchTrainer(
            train_worker,
            train_loop_config={
                "config": self.config.model_dump(mode="json"),
                "tracked": self.tracked,
                "mailbox": self.mailbox,
            },
            scaling_config=ray.train.ScalingConfig(
                num_workers=sizes[0] if len(sizes) == 1 else (sizes[0], sizes[-1]),
                # Ray would kill the workers to make room for more; we ask them to stop first.
                elastic_resize_monitor_interval_s=sys.float_info.max,
                use_gpu=scaling.use_gpu,
                resources_per_worker=self._resources_per_worker,
            ),
            torch_config=PreemptibleTorchConfig(
                backend="nccl" if scaling.use_gpu else "gloo",
                timeout_s=round(PROCESS_GROUP_TIMEOUT_S),
            ),
            run_config=ray.train.RunConfig(
                name=self.config.name,
                storage_path=folder,
                failure_config=ray.train.FailureConfig(max_failures=scaling.max_failures),
                logging_config=ray.train.LoggingConfig(log_level="ERROR"),
            ),
        )

    @property
    def _resources_per_worker(self) -> dict[str, float]:
        scaling = self.config.scaling
        return {"CPU": float(scaling.cpus_per_worker)} | ({"GPU": 1.0} if scaling.use_gpu else {})

    def _show(self) -> float:
        """Shows what has come in; for how long no worker was heard of [s]."""
        messages, silent_s = ray.get(self.mailbox.take.remote())
        for message in messages:
            if isinstance(message, str):
                say(message)
            elif isinstance(message, Metrics):
                self.last_step = message.step, time.monotonic()
                self.progress.scalars(*message)
            else:
                self._say_who_trains(message)
        return float(silent_s)

    def _say_who_trains(self, group: GroupStarted) -> None:
        if self.num_workers and group.num_workers <= self.num_workers:
            self.resize_pause_s *= 2  # the room was not for us: look less often
        else:
            self.resize_pause_s = self.config.scaling.resize_every_s
        self.num_workers = group.num_workers
        self.room_since = None
        self.next_look = time.monotonic() + self.resize_pause_s
        after = ""
        if self.last_step is not None:
            step, when = self.last_step
            after = f", {format_seconds(time.monotonic() - when)} after step {step} was reported"
        hosts = ", ".join(sorted(set(group.hosts)))
        say(f"{group.num_workers} workers train on {hosts}{after}")

    def _has_room_for_more(self) -> bool:
        """Whether an elastic run that is smaller than it may be could have grown for some time."""
        scaling, now = self.config.scaling, time.monotonic()
        if scaling.min_workers is None or self.num_workers >= scaling.num_workers:
            return False
        if now < self.next_look:
            return False
        free = ray.available_resources()
        if any(free.get(kind, 0) < need for kind, need in self._resources_per_worker.items()):
            self.room_since, self.next_look = None, now + self.resize_pause_s
            return False
        self.room_since = self.room_since or now
        return now - self.room_since > ROOM_LASTS_S

    def _say_what_is_missing(self, silent_s: float) -> None:
        scaling = self.config.scaling
        needed = f"{scaling.world_sizes[0]} workers with {_listed(self._resources_per_worker)} each"
        free = _listed({k: v for k, v in ray.available_resources().items() if k in ("CPU", "GPU")})
        if silent_s > scaling.wait_for_nodes_s:
            raise TrainingError(
                expected=f"{needed} within {format_seconds(scaling.wait_for_nodes_s)}",
                found=f"{free} free",
                where=f"the Ray cluster, for {self.config.name}",
                fix="add nodes, lower scaling.num_workers, or set scaling.min_workers",
            )
        if time.monotonic() >= self.next_notice:
            self.next_notice = time.monotonic() + 4 * SILENCE_S
            since = format_seconds(silent_s)
            say(f"waiting for {needed} since {since}; the cluster has {free} free")


@contextmanager
def _ray_cluster(config: Config) -> Iterator[None]:
    """Joins the cluster that this job was submitted to, or starts one here for the time being."""
    if ray.is_initialized():
        yield
        return
    arguments: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if "RAY_ADDRESS" not in os.environ:
        scaling = config.scaling
        # One machine may have fewer cores than workers: they then share them.
        needed = scaling.num_workers * scaling.cpus_per_worker
        arguments |= {"address": "local", "num_cpus": max(os.cpu_count() or 1, needed)}
    handler = signal.getsignal(signal.SIGTERM)
    with waiting("starting Ray"):
        ray.init(**arguments)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)  # Ray's own would end this process at once
    try:
        yield
    finally:
        ray.shutdown()


def _listed(resources: dict[str, float]) -> str:
    return " and ".join(f"{number:g} {kind}" for kind, number in resources.items()) or "nothing"


def _in_short(error: BaseException) -> str:
    """The last line of Ray's many, of which the first sentence tells what happened."""
    line = str(error).strip().splitlines()[-1]
    return line.split(". ")[0] if len(line) > 200 else line
