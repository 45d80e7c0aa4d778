"""Checkpoints of processes that end or are killed while they write."""

import subprocess
import sys

from stem_complete.training import Checkpoints


def test_the_interpreter_ends_after_the_write(tmp_path):
    script = (
        "import sys, torch\n"
        "from stem_complete.training.checkpoint import Checkpoints\n"
        "Checkpoints(sys.argv[1]).save(\n"
        "    5, {'task': {'w': torch.ones(20_000_000)}}, config={}, metrics={}, score=None)\n"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path], check=True, timeout=120)
    assert Checkpoints(tmp_path).latest().state["task"]["w"].sum() == 20_000_000


KILLED_AT_RANDOM = """
import os, random, signal, sys, time
import torch
from stem_complete.training.checkpoint import Checkpoints
torch.set_num_threads(1)

def state(step):
    return {part: {name: torch.full((200_000,), float(step)) for name in "ab"}
            for part in ("task", "optimizer")}

def save_for_ever(acknowledge):
    checkpoints = Checkpoints(sys.argv[1], keep=1)
    found = checkpoints.latest()
    step = found.step if found else 0
    while True:
        step += 1
        checkpoints.save(step, state(step), config={}, metrics={}, score=1 / step)
        checkpoints.wait()
        os.write(acknowledge, step.to_bytes(4, "little"))

known = 0
for _ in range(15):
    read, write = os.pipe()
    started = time.perf_counter()
    child = os.fork()
    if not child:
        os.close(read)
        save_for_ever(write)
    os.close(write)
    acknowledged = os.read(read, 4)
    time.sleep(random.uniform(0, 2 * (time.perf_counter() - started)))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while more := os.read(read, 4):
        acknowledged = more
    os.close(read)
    found = Checkpoints(sys.argv[1]).latest()
    known = max(known, int.from_bytes(acknowledged, "little"))
    # One more may have been written than the child came to tell.
    assert found.step in (known, known + 1), (found.step, known)
    known = found.step
    for tensors in found.state.values():
        for tensor in tensors.values():
            assert (tensor == known).all()
print(known)
"""


def test_no_kill_costs_a_checkpoint(tmp_path):
    """Of 15 at random moments: what had been written is there, whole, and nothing is left over."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED_AT_RANDOM, tmp_path],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout) >= 15
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(10**6, {"task": {}}, config={}, metrics={}, score=0.0)
    checkpoints.wait()
    assert [path.name for path in checkpoints.folder.iterdir()] == ["step-01000000"]
