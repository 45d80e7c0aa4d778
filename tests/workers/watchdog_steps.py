"""Worker: takes steps under a watchdog until, in step 5, one worker is disturbed.

watchdog_steps.py DISTURBANCE RANK TIMEOUT_S; reads RANK and WORLD_SIZE as torchrun sets them.
"""

import os
import signal
import sys
import time

import torch
import torch.distributed as dist

from stem_complete.distributed import Watchdog, all_reduce_sum, torchrun_context

DISTURBANCES = {
    "none": lambda: None,
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "sleep": lambda: time.sleep(600),
    "raise": lambda: (_ for _ in ()).throw(OSError("disk gone")),
}
disturb, disturbed, timeout_s = DISTURBANCES[sys.argv[1]], int(sys.argv[2]), float(sys.argv[3])

with torchrun_context(use_gpu=False) as context:
    all_reduce_sum(torch.ones(1))
    with Watchdog(context, timeout_s) as watchdog:
        for step in range(7):
            watchdog.beat(step, "data")
            time.sleep(0.4)
            if step == 5 and context.rank == disturbed:
                disturb()
            watchdog.beat(step, "reduce")
            all_reduce_sum(torch.ones(1))
assert not dist.is_initialized()
