"""Checkpoints of processes that end or are killed while they write."""

import subprocess
import sys

import workers

from stem_complete.training import Checkpoints


def test_the_interpreter_ends_after_the_write(tmp_path):
    script = (
        "import sys, torch\n"
        "from stem_complete.training.checkpoint import Checkpoints\n"
        "Checkpoints(sys.argv[1]).save(\n"
        "    5, {'task': {'w': torch.ones(20_000_000)}}, config={}, metrics={}, score=None)\n"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path], check=True)
    assert Checkpoints(tmp_path).latest().state["task"]["w"].sum() == 20_000_000


def test_no_kill_costs_a_checkpoint(tmp_path):
    """Of 15 at random moments: what had been written is there, whole, and nothing is left over."""
    assert workers.steps_saved_though_killed(tmp_path, num_kills=15) >= 15
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(10**6, {"task": {}}, config={}, metrics={}, score=0.0)
    checkpoints.wait()
    assert [path.name for path in checkpoints.folder.iterdir()] == ["step-01000000"]
