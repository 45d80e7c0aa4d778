"""Worker: counts what happens in training steps under torchrun, with and without ALRC.

profiled.py CONFIG_WITH.json CONFIG_WITHOUT.json FOLDER
"""

import json
import sys
from collections import Counter
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from stem_complete.config import validate_config
from stem_complete.distributed import torchrun_context
from stem_complete.training import train

torch.set_num_threads(1)
with torchrun_context(use_gpu=False) as context:
    counts = []
    folder = Path(sys.argv[3])
    trace = folder / f"trace-{context.rank}.json"
    for file in sys.argv[1:3]:
        config = validate_config(json.loads(Path(file).read_text()), "test")
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            train(config, context)
        # Quicker than profiler.events(), which finds out what called what.
        profiler.export_chrome_trace(str(trace))
        counts.append(
            Counter(event["name"] for event in json.loads(trace.read_text())["traceEvents"])
        )
    (folder / f"{context.rank}.json").write_text(json.dumps(counts))
