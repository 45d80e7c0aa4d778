"""Worker: trains a config under torchrun; one bit of one moment flips on rank 1 in the third step.

diverging.py CONFIG.json FOLDER
"""

import json
import sys
from pathlib import Path

import torch

from stem_complete.config import validate_config
from stem_complete.distributed import torchrun_context
from stem_complete.errors import TrainingError
from stem_complete.training import CompletionTask, train

config = validate_config(json.loads(Path(sys.argv[1]).read_text()), "test")
torch.set_num_threads(1)
with torchrun_context(use_gpu=False) as context:
    commit, num_commits = CompletionTask.commit, 0

    def commit_and_flip(self, sums, usable):
        global num_commits
        commit(self, sums, usable)
        num_commits += 1
        if num_commits == 3 and context.rank == 1:
            self.alrc["inner"].mu2.view(torch.int64).bitwise_xor_(1)

    CompletionTask.commit = commit_and_flip
    try:
        train(config, context)
    except TrainingError as error:
        (Path(sys.argv[2]) / f"{context.rank}.txt").write_text(str(error))
