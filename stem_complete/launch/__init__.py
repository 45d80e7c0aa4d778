"""Launching: a config becomes runs, on Ray or in this process.

`runs` checks a config, opens the MLflow run, trains and exports. On Ray, `ray_group` starts one
worker group after the other; `driver` follows each and gives up, `policy` decides when a run grows,
both without Ray; `ray_worker` is what a worker does, and `mailbox` lies between them.
`side_by_side` has several runs of a sweep go on at a time.

Its names are loaded when first used: the actor that has the mailbox does without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stem_complete.launch.runs import Outcome, launch

__all__ = ["Outcome", "launch"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from stem_complete.launch import runs

        return getattr(runs, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
