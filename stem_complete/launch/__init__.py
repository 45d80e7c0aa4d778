"""Launching: a config becomes runs, on Ray or in this process.

`runs` checks a config, opens the MLflow run, trains and exports. On Ray, `ray_group` starts one
worker group after the other; `driver` follows each and `policy` decides when a run grows, waits or
gives up, both without Ray; `ray_worker` is what a worker does, and `mailbox` lies between them.
"""

from stem_complete.launch.runs import Outcome, launch

__all__ = ["Outcome", "launch"]
