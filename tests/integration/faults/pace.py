"""Training whose steps take a while, so that tests which wait for a cluster leave it the cores.

    python pace.py train CONFIG

is `python -m stem_complete train CONFIG`, but that each worker on Ray sleeps before a step. At full
speed, workers took four tenths of the CPU time of all tests, for steps that no test looks at.
"""

from __future__ import annotations

import time
from typing import Any

from stem_complete.cli import main

STEP_S = 0.3


def paced_worker(arguments: dict[str, Any]) -> object:
    """As Ray's worker; runs in a worker's process."""
    from stem_complete.launch.ray_worker import train_worker
    from stem_complete.training.step import TrainingStep

    take_step = TrainingStep.__call__

    def wait_and_take_step(*args: Any, **kwargs: Any) -> object:
        time.sleep(STEP_S)
        return take_step(*args, **kwargs)

    TrainingStep.__call__ = wait_and_take_step  # type: ignore[method-assign]
    return train_worker(arguments)


if __name__ == "__main__":
    from stem_complete.launch import ray_group

    # Ray sends functions of `__main__` to workers by value: they need not import this module.
    ray_group.train_worker = paced_worker  # type: ignore[assignment]
    main()
