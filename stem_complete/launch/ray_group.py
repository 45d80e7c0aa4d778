"""Training on Ray: worker groups of Ray Train, on the cluster of this job or on a local one.

Ray Train restarts a group that lost workers. Two things it does not do: end a group with a
checkpoint when asked (preemption, Ctrl-C, `ray job stop`, room for more workers) and start the one
that follows it; and start anew when its own controller dies. `driver` decides, this module acts.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any, TypeVar, cast

import ray
import ray.train
import ray.train.torch
from ray._private.state import state as ray_state
from ray.core.generated.gcs_pb2 import PlacementGroupTableData
from ray.util.placement_group import PlacementGroup, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from stem_complete.config import Config
from stem_complete.config.schema import ScalingConfig
from stem_complete.credentials import Handover
from stem_complete.distributed import PROCESS_GROUP_TIMEOUT_S
from stem_complete.errors import TrainingError
from stem_complete.launch.cluster import ray_cluster
from stem_complete.launch.driver import ControllerLostError, Driver, WorkersFailedError
from stem_complete.launch.mailbox import Mailbox
from stem_complete.launch.messages import POLL_S, Message
from stem_complete.launch.policy import have_places, resources_per_worker
from stem_complete.launch.ray_worker import PreemptibleTorchConfig, train_worker
from stem_complete.launch.side_by_side import side_by_side
from stem_complete.storage.claim import Claim
from stem_complete.tracking import TrackedRun
from stem_complete.training import (
    StopRequest,
    TaskBuilder,
    TrainingResult,
    build_named,
    stop_on_signals,
)

CONTROLLER_S = 20.0
"""Time that Ray Train's controller has to start before a group is followed, or left."""

_one_starts = threading.Lock()
"""Held while a controller starts, so that each group knows which one is its own."""

T = TypeVar("T")


def launch_on_ray(
    runs: Sequence[Config],
    launch_one: Callable[[Config, StopRequest], T],
    *,
    at_a_time: int | None,
) -> list[T]:
    """Launches runs side by side on one cluster: that of this job, or a local one.

    Args:
        runs: All of them.
        launch_one: Trains one by `train_on_ray`, and ends early once its request asks for that.
        at_a_time: As many at most; None: as many as the cluster has room for.

    Returns:
        What `launch_one` returned, in the order of the runs.

    Raises:
        Exception: What `launch_one` raised first. The other runs were asked to stop, and did.
        TrainingError: There is no cluster.
        KeyboardInterrupt: Ctrl-C was pressed, and the runs under way have stopped.
        SystemExit: SIGTERM was received, likewise.
    """

    def has_room(together: Sequence[Config]) -> bool:
        few_enough = at_a_time is None or len(together) <= at_a_time
        return few_enough and _has_room([run.scaling for run in together])

    largest = max(
        (run.scaling for run in runs), key=lambda each: each.num_workers * each.cpus_per_worker
    )
    stop = StopRequest()
    with stop_on_signals(stop), ExitStack() as cluster:
        try:
            cluster.enter_context(ray_cluster(largest))
        except TrainingError:
            if stop.signal is None:
                raise
            raise stop.exit() from None  # the signal may have ended Ray's processes, too
        return side_by_side(runs, launch_one, stop, has_room)


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
                start = partial(
                    _ray_group, config, tracked, claim, stop, _start_mailbox(), build_task
                )
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
        self._controller: bytes | None = None
        self._outcome: Any = None

    def run(self) -> None:
        """Body of the thread."""
        try:
            self._outcome = self.trainer.fit().return_value
        except Exception as error:  # for the main thread, which knows what to do
            self._outcome = error

    def has_ended_within(self, seconds: float) -> bool:
        """Waits for its end, at most so long."""
        if self.ident is None:
            return False  # it was not started, as the run is to stop
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
        return any(
            places.creator_actor_id == self._controller
            for places in _places()
            if places.state == PlacementGroupTableData.CREATED
        )

    def start(self) -> None:
        """Starts its thread, and returns once that does nothing but wait for the controller.

        Ray ends this whole process if a thread speaks to it while it shuts down.
        """
        others = {places.creator_actor_id for places in _places()}
        super().start()
        given_up_s = time.monotonic() + CONTROLLER_S
        while self.is_alive() and not self._controller and time.monotonic() < given_up_s:
            self.join(POLL_S)
            # A controller that runs asks the cluster for places, free or not.
            controllers = {places.creator_actor_id for places in _places()} - others
            self._controller = next(iter(controllers), None)

    def result(self) -> TrainingResult:
        """How training ended; raises what `driver.Group` says."""
        outcome = self._outcome
        if isinstance(outcome, ray.exceptions.RayActorError):
            _free_places_of_the_dead()
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
    stop: StopRequest,
    mailbox: ray.actor.ActorHandle,
    build_task: TaskBuilder,
) -> Iterator[RayGroup]:
    """Starts a worker group, unless it is to stop before."""
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
        with _one_starts:
            if stop.reason is None:  # others may have taken long to start
                group.start()
        try:
            yield group
        finally:
            if group.is_alive():
                group.ask_to_stop("it was left")  # where its cluster goes on, for other runs


def _start_mailbox() -> ray.actor.ActorHandle:
    """A mailbox on this node, which outlives the others."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return (
        ray.remote(num_cpus=0)(Mailbox)
        .options(scheduling_strategy=here, max_restarts=-1, max_task_retries=-1)
        .remote()
    )


def _places() -> list[PlacementGroupTableData]:
    """What controllers of this job asked the cluster for, also what it has taken back."""
    job = bytes.fromhex(ray.get_runtime_context().get_job_id())
    # What Ray tells of them publicly does not say whose they are.
    accessor = ray_state._connect_and_get_accessor()  # noqa: SLF001
    table = accessor.get_placement_group_table()
    asked = [PlacementGroupTableData.FromString(entry) for entry in table]
    return [each for each in asked if each.creator_job_id == job]


def _free_places_of_the_dead() -> None:
    """Takes back the places of controllers that died, which Ray keeps until the job ends."""
    for places in _places():
        if places.creator_actor_dead and places.state != PlacementGroupTableData.REMOVED:
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(places.placement_group_id)))


def _has_room(runs: Sequence[ScalingConfig]) -> bool:
    """Whether runs, all but the last of which are under way, have room at the same time."""
    needed: dict[str, float] = defaultdict(float)
    ours_or_free: dict[str, float] = defaultdict(float, ray.available_resources())
    for scaling in runs:
        for kind, number in resources_per_worker(scaling).items():
            needed[kind] += scaling.num_workers * number
    for places in _places():
        if places.state == PlacementGroupTableData.CREATED:
            for bundle in places.bundles:
                for kind, number in bundle.unit_resources.items():
                    ours_or_free[kind] += number
    # Those that have no places yet must find them, too, beside what other jobs have.
    if any(ours_or_free[kind] < number for kind, number in needed.items()):
        return False
    return have_places(runs, [node["Resources"] for node in ray.nodes() if node["Alive"]])


def _in_short(error: BaseException) -> str:
    """The last line of Ray's many, or its first sentence if it is long: it says what happened."""
    line = str(error).strip().splitlines()[-1]
    return line.split(". ")[0] if len(line) > 200 else line
