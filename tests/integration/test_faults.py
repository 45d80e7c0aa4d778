"""Runs through all kinds of faults, and through changes of size, on a Ray cluster of two nodes.

`scripts/chaos` is the long form.
"""

import random
import signal
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path

import pytest
from faults import (
    FAULTS,
    Cost,
    LocalCluster,
    Training,
    differing,
    inject,
    journal,
    plan,
    recorded_steps,
    short_run,
    train_undisturbed,
)
from training_runs import Tape

from stem_complete.distributed import WorkerContext
from stem_complete.training import Checkpoints, StopRequest, train

pytestmark = [
    pytest.mark.ray,
    # Ray's own: sockets and processes that it leaves to the garbage collector.
    pytest.mark.filterwarnings("ignore"),
]

STEPS = 120
SEED = 1
# A worker killed twice is killed once; the elastic run is interrupted.
KINDS = sorted(FAULTS.keys() - {"worker killed", "driver interrupted"})
PLAN = plan(random.Random(SEED), len(KINDS), STEPS, KINDS)
CHECKPOINT_EVERY_STEPS = 10
GRACEFUL = {"worker terminated", "node drained"}
"""Faults that leave time for a checkpoint."""
SAME_TO_ROUNDING = ("train/outer_loss", "train/inner_loss", "train/learning_rate", "train/beta1")


@pytest.fixture(scope="module")
def training(
    local_cluster: LocalCluster, small_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Training]:
    """A run that is under way."""
    folder = tmp_path_factory.mktemp("disturbed")
    config = short_run(
        small_store,
        folder,
        f"training.steps={STEPS}",
        f"training.checkpoint_every_steps={CHECKPOINT_EVERY_STEPS}",
    )
    with Training(config, folder, local_cluster.address, paced=True) as training:
        training.start()
        yield training


@pytest.mark.parametrize(("fault", "step"), PLAN)
def test_training_goes_on(
    fault: str,
    step: int,
    local_cluster: LocalCluster,
    training: Training,
    report: Callable[[Cost], None],
) -> None:
    training.wait_for_step(step)
    cost = inject(fault, local_cluster, training, random.Random(step))
    report(cost)
    # Beyond the last checkpoint, which may have been under way.
    assert cost.steps_lost <= (0 if fault in GRACEFUL else 2 * CHECKPOINT_EVERY_STEPS)


def test_the_run_ends_as_if_nothing_had_happened(training: Training, tmp_path: Path) -> None:
    """Bit by bit as without Ray, and in one MLflow run that has each step once."""
    assert training.wait() == 0, training.printed()[-3000:]
    config = training.config
    assert (config.run_folder / "model" / "model.safetensors").is_file()
    assert f"{STEPS}/{STEPS}" in training.printed()
    assert recorded_steps(config) == list(range(1, STEPS + 1))

    undisturbed = config.model_copy(update={"storage": str(tmp_path)})
    train_undisturbed(undisturbed, tmp_path)
    assert differing(config.run_folder, undisturbed.run_folder) == []


def test_an_elastic_run_shrinks_and_grows_with_the_cluster(
    local_cluster: LocalCluster,
    small_store: Path,
    tmp_path: Path,
    report: Callable[[Cost], None],
) -> None:
    """To rounding it is the run of one process without Ray: the same examples in each step."""
    changes = (
        "training.steps=100000",
        "training.checkpoint_every_steps=10",
        "training.validate_every_steps=100000",
        "optimizer.learning_rate=1e-7",  # with more, rounding grows beyond all bounds
    )
    grows = ("scaling.min_workers=1", "scaling.resize_every_s=0.5")
    elastic = short_run(small_store, tmp_path, *changes, *grows)

    def num_workers() -> int:
        return int(journal(elastic)[-1].values["train/workers"])

    with Training(elastic, tmp_path, local_cluster.address, paced=True) as training:
        training.start()
        training.wait_for_step(20)
        local_cluster.kill_node(local_cluster.nodes[0])
        training.wait_until(lambda: num_workers() == 1, "shrinking")
        local_cluster.add_node()
        training.wait_until(lambda: num_workers() == 2, "growing")
        training.wait_for_step(training.step() + 10)
        training.signal(signal.SIGINT)
        assert training.wait() == 130, training.printed()[-3000:]
    taken = journal(elastic)
    left = Checkpoints(elastic.run_folder).latest()
    assert left is not None
    assert left.step == taken[-1].step
    changes_of_size = [
        (last, first)
        for last, first in pairwise(taken)
        if last.values["train/workers"] != first.values["train/workers"]
    ]
    assert [first.values["train/workers"] for _, first in changes_of_size] == [1, 2]
    for fault, (last, first) in zip(
        ("node lost for good", "node added"), changes_of_size, strict=True
    ):
        pause_s = first.time_s - last.time_s
        report(Cost(fault, last.step, last.step - first.step + 1, pause_s))

    class UntilThen(Tape):
        def scalars(self, step: int, values: Mapping[str, float]) -> None:
            super().scalars(step, values)
            if step == taken[-1].step:
                stop("there is no more to compare")

    stop, tape = StopRequest(), UntilThen()
    alone = short_run(small_store, tmp_path, *changes, "scaling.num_workers=1", name="alone")
    train(alone, WorkerContext(), recorder=tape, stop=stop)
    for entry in taken:
        for name in SAME_TO_ROUNDING:
            expected = tape.values[name][entry.step]
            assert entry.values[name] == pytest.approx(expected, rel=1e-3), entry
