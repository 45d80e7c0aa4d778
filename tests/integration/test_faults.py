"""One run through every kind of fault, at random points, on a real Ray cluster of two nodes.

`scripts/chaos` is the long form.
"""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faults import (
    FAULTS,
    Cost,
    LocalCluster,
    Training,
    differing,
    inject,
    plan,
    recorded_steps,
    short_run,
    train_undisturbed,
)

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(900),
    # Ray's own: sockets and processes that it leaves to the garbage collector.
    pytest.mark.filterwarnings("ignore"),
]

STEPS = 240
SEED = 1
PLAN = plan(random.Random(SEED), len(FAULTS), STEPS)
CHECKPOINT_EVERY_STEPS = 10
GRACEFUL = {"worker terminated", "node drained", "driver interrupted"}
"""Which leave time for a checkpoint."""


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
    with Training(config, folder, local_cluster.address) as training:
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
    """Bit by bit as two torchrun processes do, and in one MLflow run that has each step once."""
    assert training.wait() == 0, training.printed()[-3000:]
    config = training.config
    assert (config.run_folder / "model" / "model.safetensors").is_file()
    assert f"{STEPS}/{STEPS}" in training.printed()
    assert recorded_steps(config) == list(range(1, STEPS + 1))

    undisturbed = config.model_copy(update={"storage": str(tmp_path)})
    train_undisturbed(undisturbed, tmp_path)
    assert differing(config.run_folder, undisturbed.run_folder) == []
