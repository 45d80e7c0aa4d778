"""Worker: trains tiny tasks under torchrun until a step, then to their ends.

tiny.py BUILDER STOP_AFTER CONFIG.json [CONFIG.json ...]
"""

import json
import sys
from pathlib import Path

import tiny_task
import torch

from stem_complete.config import validate_config
from stem_complete.distributed import torchrun_context
from stem_complete.training import StopRequest, train

builder, stop_after, *files = sys.argv[1:]
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
    build_task = getattr(tiny_task, builder)
    for file in files:
        config = validate_config(json.loads(Path(file).read_text()), "test")
        finished = False
        while not finished:
            stop = StopRequest()
            recorder = Stopper(stop)
            result = train(config, context, recorder=recorder, stop=stop, build_task=build_task)
            finished = result.finished
