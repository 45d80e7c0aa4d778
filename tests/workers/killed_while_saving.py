"""Saves checkpoints in processes that are killed at random: what was written is there, and whole.

killed_while_saving.py FOLDER NUM_KILLS
"""

import os
import random
import signal
import sys
import time

import torch

from stem_complete.training.checkpoint import Checkpoints

torch.set_num_threads(1)
folder, num_kills = sys.argv[1], int(sys.argv[2])


def save_for_ever(acknowledge):
    checkpoints = Checkpoints(folder, keep=1)
    found = checkpoints.latest()
    step = found.step if found else 0
    while True:
        step += 1
        state = {
            part: {name: torch.full((200_000,), float(step)) for name in "ab"}
            for part in ("task", "optimizer")
        }
        checkpoints.save(step, state, config={}, metrics={}, score=1 / step)
        checkpoints.wait()
        os.write(acknowledge, step.to_bytes(4, "little"))


def tell_what_is_there(answer):
    found = Checkpoints(folder).latest()
    whole = all(
        (value == found.step).all() for part in found.state.values() for value in part.values()
    )
    os.write(answer, (found.step if whole else 0).to_bytes(4, "little"))
    os._exit(0)


def start(action):
    # The event loop of s3fs does not survive a fork: this process never uses it.
    read, write = os.pipe()
    child = os.fork()
    if not child:
        action(write)
    os.close(write)
    return child, read


known = 0
for _ in range(num_kills):
    started = time.perf_counter()
    child, read = start(save_for_ever)
    acknowledged = os.read(read, 4)
    time.sleep(random.uniform(0, min(0.5, 2 * (time.perf_counter() - started))))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while more := os.read(read, 4):
        acknowledged = more
    os.close(read)
    known = max(known, int.from_bytes(acknowledged, "little"))
    child, read = start(tell_what_is_there)
    step = int.from_bytes(os.read(read, 4), "little")
    os.waitpid(child, 0)
    os.close(read)
    # One more may have been written than the child came to tell.
    assert step in (known, known + 1), (step, known)
    known = step
print(known)
