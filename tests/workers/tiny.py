"""Worker: trains the tiny task under torchrun until a step, then to its end.

tiny.py CONFIG.json BUILDER STOP_AFTER
"""

import json
import sys
from pathlib import Path

import tiny_task
import torch

from stem_complete.config import validate_config
from stem_complete.distributed import torchrun_context
from stem_complete.training import StopRequest, train

file, builder, stop_after = sys.argv[1:]
torch.set_num_threads(1)


class Stopper:
    """A recorder that asks for a stop after a step."""

    def __init__(self, stop):
        self.stop = stop

    def scalars(self, step, values):
        if step == int(stop_after):
            self.stop("a test wants it")

    def close(self):
        pass


with torchrun_context(use_gpu=False) as context:
    config = validate_config(json.loads(Path(file).read_text()), "test")
    build_task = getattr(tiny_task, builder)
    finished = False
    while not finished:
        stop = StopRequest()
        result = train(config, context, recorder=Stopper(stop), stop=stop, build_task=build_task)
        finished = result.finished
