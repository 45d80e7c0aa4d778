"""Training on Ray: worker groups of Ray Train, on the cluster of this job or on a local one.

Ray Train restarts a group that lost workers. Two things it does not do: end a group with a
checkpoint when asked (preemption, Ctrl-C, `ray job stop`, room for more workers) and start the one
that follows it; and start anew when its own controller dies. `driver` decides, this module acts.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any, cast

import ray
import ray.train
import ray.train.torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from stem_complete.config import Config
from stem_complete.credentials import Handover
from stem_complete.distributed import PROCESS_GROUP_TIMEOUT_S
from stem_complete.errors import TrainingError
from stem_complete.launch.cluster import ray_cluster
from stem_complete.launch.driver import ControllerLostError, Driver, WorkersFailedError
from stem_complete.launch.mailbox import Mailbox
from stem_complete.launch.messages import POLL_S, Message
from stem_complete.launch.policy import resources_per_worker
from stem_complete.launch.ray_worker import PreemptibleTorchConfig, train_worker
from stem_complete.storage.claim import Claim
from stem_complete.tracking import TrackedRun
from stem_complete.training import StopRequest, TaskBuilder, TrainingResult, build_named

LEAVE_S = 20.0
"""Time that Ray Train's controller has to start, where a group is left before."""


def train_on_ray(
    config: Config,
    tracked: TrackedRun | None,
    stop: StopRequest,
    claim: Claim | None = None,
    build_task: TaskBuilder = build_named,
) -> TrainingResult:
    """Trains on Ray Train worker groups: on the cluster of this job, or on a local one.

    Workers must be able to import `build_task`.

    Raises:
        StemCompleteError: Training failed; from the workers, or because there are none.
    """
    driver = Driver(config, stop)
    try:
        while True:
            with ExitStack() as cluster:
                try:
                    cluster.enter_context(ray_cluster(config.scaling))
                except TrainingError:
                    if stop.signal is None:
                        raise
                    return driver.stopped()  # the signal may have ended Ray's processes, too
                start = partial(_ray_group, config, tracked, claim, _start_mailbox(), build_task)
                result = driver.run(start)
            if result is not None:
                return result
    finally:
        driver.progress.close()


class RayGroup(threading.Thread):
    """A worker group: one call of Ray Train's `fit`.

    The call has a thread of its own, as it would take over Ctrl-C on the main thread.
    """

    def __init__(
        self, trainer: ray.train.torch.TorchTrainer, mailbox: ray.actor.ActorHandle
    ) -> None:
        super().__init__(name="ray-train", daemon=True)
        self.trainer, self.mailbox = trainer, mailbox
        self._others = set(ray.util.placement_group_table())
        self._outcome: Any = None

    def run(self) -> None:
        """Body of the thread."""
        try:
            self._outcome = self.trainer.fit().return_value
        except Exception as error:  # for the main thread, which knows what to do
            self._outcome = error

    def has_ended_within(self, seconds: float) -> bool:
        """Waits for its end, at most so long."""
        self.join(seconds)
        return not self.is_alive()

    def take_messages(self) -> tuple[list[Message], float]:
        """Messages since the last call, and for how long all workers were silent [s]."""
        return cast("tuple[list[Message], float]", ray.get(self.mailbox.take.remote()))

    def ask_to_stop(self, reason: str) -> None:
        """Asks its workers to stop with a checkpoint."""
        self.mailbox.ask_to_stop.remote(reason)

    def free_resources(self) -> Mapping[str, float]:
        """What the cluster has free, by Ray's names."""
        return cast("dict[str, float]", ray.available_resources())

    def all_resources(self) -> Mapping[str, float]:
        """What the cluster has, free or not, by Ray's names."""
        return cast("dict[str, float]", ray.cluster_resources())

    def has_places(self) -> bool:
        """Whether the cluster gave its workers their places, in which they may still start."""
        return "CREATED" in self._places()

    def leave(self) -> None:
        """Waits until its thread does nothing but wait for the controller, or has ended.

        Ray ends this whole process if a thread speaks to it while it shuts down.
        """
        given_up_s = time.monotonic() + LEAVE_S
        while self.is_alive() and not self._places() and time.monotonic() < given_up_s:
            self.join(POLL_S)

    def _places(self) -> list[str]:
        """States of what the controller asked the cluster for; none before it runs."""
        table = ray.util.placement_group_table()
        return [table[group]["state"] for group in table.keys() - self._others]

    def result(self) -> TrainingResult:
        """How training ended; raises what `driver.Group` says."""
        outcome = self._outcome
        if isinstance(outcome, ray.exceptions.RayActorError):
            raise ControllerLostError(_in_short(outcome)) from outcome
        if isinstance(outcome, ray.train.TrainingFailedError | ray.exceptions.RayError):
            raise WorkersFailedError(_in_short(outcome)) from outcome
        if isinstance(outcome, Exception):  # perhaps one that a worker returned
            raise outcome
        return TrainingResult(*outcome)


@contextmanager
def _ray_group(
    config: Config,
    tracked: TrackedRun | None,
    claim: Claim | None,
    mailbox: ray.actor.ActorHandle,
    build_task: TaskBuilder,
) -> Iterator[RayGroup]:
    """Starts a worker group."""
    scaling, sizes = config.scaling, config.scaling.world_sizes
    ray.get(mailbox.ask_to_stop.remote(None))
    # Ray keeps notes about a group in a folder; no other group needs them.
    with TemporaryDirectory(prefix="stem-complete-ray-") as folder:
        trainer = ray.train.torch.TorchTrainer(
            train_worker,
            train_loop_config={
                "config": config.model_dump(mode="json"),
                "tracked": tracked,
                "claim": claim,
                "mailbox": mailbox,
                "build_task": build_task,
                "credentials": Handover(),
            },
            scaling_config=ray.train.ScalingConfig(
                num_workers=sizes[0] if len(sizes) == 1 else (sizes[0], sizes[-1]),
                # Ray would kill the workers to make room for more; the driver asks them to stop.
                elastic_resize_monitor_interval_s=sys.float_info.max,
                use_gpu=scaling.use_gpu,
                resources_per_worker=resources_per_worker(scaling),
            ),
            torch_config=PreemptibleTorchConfig(
                backend="nccl" if scaling.use_gpu else "gloo",
                timeout_s=round(PROCESS_GROUP_TIMEOUT_S),
            ),
            run_config=ray.train.RunConfig(
                name=config.name,
                storage_path=folder,
                failure_config=ray.train.FailureConfig(max_failures=scaling.max_failures),
                logging_config=ray.train.LoggingConfig(log_level="ERROR"),
            ),
        )
        group = RayGroup(trainer, mailbox)
        group.start()
        try:
            yield group
        finally:
            group.leave()


def _start_mailbox() -> ray.actor.ActorHandle:
    """A mailbox on this node, which outlives the others."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return (
        ray.remote(num_cpus=0)(Mailbox)
        .options(scheduling_strategy=here, max_restarts=-1, max_task_retries=-1)
        .remote()
    )


def _in_short(error: BaseException) -> str:
    """The last line of Ray's many, or its first sentence if it is long: it says what happened."""
    line = str(error).strip().splitlines()[-1]
    return line.split(". ")[0] if len(line) > 200 else line
