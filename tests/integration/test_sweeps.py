"""A sweep on a Ray cluster of two nodes with one CPU each: side by side where there is room."""

import signal
from pathlib import Path

import pytest
from faults import LocalCluster, Training, journal, short_run

from stem_complete.config import Config, expand_sweep
from stem_complete.tracking import TrackedRuns, default_uri
from stem_complete.tracking.client import connect
from stem_complete.training import Checkpoints

pytestmark = [
    pytest.mark.ray,
    # Ray's own: sockets and processes that it leaves to the garbage collector.
    pytest.mark.filterwarnings("ignore"),
]


def num_steps(run: Config) -> int:
    return max((entry.step for entry in journal(run)), default=0)


def test_runs_share_the_cluster_stop_together_and_go_on_in_turn_where_one_fills_it(
    local_cluster: LocalCluster, small_store: Path, tmp_path: Path
) -> None:
    def sweep(one: str, *changes: str) -> Config:
        arms = f"sweep.arms={{one: {one}, two: {{}}}}"
        return short_run(small_store, tmp_path, arms, *changes)

    endless = sweep("{}", "scaling.num_workers=1", "training.steps=100000")
    one, two = expand_sweep(endless)
    with Training(endless, tmp_path, local_cluster.address, paced=True) as training:
        training.start()
        training.wait_until(lambda: num_steps(one) and num_steps(two), "both to train")
        training.signal(signal.SIGTERM)
        assert training.wait() == 143, training.printed()[-3000:]
    stopped_at = {}
    for run in (one, two):
        left = Checkpoints(run.run_folder).latest()
        assert left is not None
        assert left.step == num_steps(run)
        stopped_at[run.name] = left.step

    ruined = "{optimizer: {learning_rate: 1.0e+12}, training: {max_nonfinite_steps: 2}}"
    steps = max(stopped_at.values()) + 6
    larger = sweep(ruined, "scaling.num_workers=2", f"training.steps={steps}")
    with Training(larger, tmp_path, local_cluster.address) as training:
        training.start()
        assert training.wait() == 1, training.printed()[-3000:]
    assert "found 1 that diverged: one-seed0" in training.printed()
    assert f"two-seed0 {steps}/{steps}" in training.printed()
    of_one, of_two = (
        [entry.time_s for entry in journal(run) if entry.values.get("train/workers") == 2]
        for run in (one, two)
    )
    assert max(of_one) < min(of_two)

    uri = default_uri(endless.storage)
    curves = TrackedRuns(uri, "stem-complete").curves("train/outer_loss")
    assert [curve.name for curve in curves] == [one.name, two.name]
    assert list(curves[1].steps) == list(range(1, steps + 1))
    tags = [connect(uri).get_run(curve.run_id).data.tags for curve in curves]
    assert tags[0]["mlflow.parentRunId"] == tags[1]["mlflow.parentRunId"]
