"""Worker: trains a config under torchrun; rank 1 gets SIGTERM while it reads its third batch.

preempted.py CONFIG.json FOLDER
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch

from stem_complete.config import validate_config
from stem_complete.data.store.store import MicrographStore
from stem_complete.distributed import torchrun_context
from stem_complete.training import stop_on_signals, train

config = validate_config(json.loads(Path(sys.argv[1]).read_text()), "test")
torch.set_num_threads(1)
with torchrun_context(use_gpu=False) as context, stop_on_signals() as stop:
    read, num_reads = MicrographStore.read, 0

    def read_and_be_preempted(self, indices):
        global num_reads
        num_reads += 1
        # The first is the data-dependent initialisation.
        if num_reads == 4 and context.rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return read(self, indices)

    MicrographStore.read = read_and_be_preempted
    result = train(config, context, stop=stop)
    seen = {"step": result.step, "finished": result.finished, "reason": stop.reason}
    (Path(sys.argv[2]) / f"{context.rank}.json").write_text(json.dumps(seen))
