"""Worker: trains configs under torchrun, and saves what every rank holds at the end of the last.

training.py FOLDER CONFIG.json...
"""

import json
import sys
from pathlib import Path

import torch

from stem_complete.config import validate_config
from stem_complete.distributed import torchrun_context
from stem_complete.training import Checkpoints
from stem_complete.training.loop import train

folder, *files = map(Path, sys.argv[1:])
torch.set_num_threads(1)
with torchrun_context(use_gpu=False) as context:
    for file in files:
        config = validate_config(json.loads(file.read_text()), "test")
        result = train(config, context)
    values = {"metrics": result.metrics, "step": result.step}
    if context.is_main:
        state = Checkpoints(config.run_folder).latest().state["task"]
        values["task"] = {name: value.clone() for name, value in state.items()}
    torch.save(values, folder / f"{context.rank}.pt")
