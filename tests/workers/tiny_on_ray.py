"""Trains the tiny task on a local Ray cluster, in a process that takes Ray's leftovers with it.

tiny_on_ray.py CONFIG.json
"""

import json
import sys
from pathlib import Path

import tiny_task

from stem_complete.config import validate_config
from stem_complete.launch.ray_group import train_on_ray
from stem_complete.training import StopRequest

if __name__ == "__main__":
    config = validate_config(json.loads(Path(sys.argv[1]).read_text()), "test")
    result = train_on_ray(config, None, StopRequest(), build_task=tiny_task.build_one)
    assert result.finished
