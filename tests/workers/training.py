"""Worker: trains a config under torchrun and saves what every rank holds at the end.

training.py CONFIG.json FOLDER
"""

import json
import sys
from pathlib import Path

import torch

from stem_complete.config import validate_config
from stem_complete.distributed import torchrun_context
from stem_complete.training import Checkpoints
from stem_complete.training.loop import train

config = validate_config(json.loads(Path(sys.argv[1]).read_text()), "test")
torch.set_num_threads(1)
with torchrun_context(use_gpu=False) as context:
    result = train(config, context)
    values = {"metrics": result.metrics, "step": result.step}
    if context.is_main:
        state = Checkpoints(config.run_folder).latest().state["task"]
        values["task"] = {name: value.clone() for name, value in state.items()}
    torch.save(values, Path(sys.argv[2]) / f"{context.rank}.pt")
