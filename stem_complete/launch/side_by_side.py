"""Runs of a sweep side by side: a thread of the driver for each, as long as there is room.

It knows no Ray. Signals reach the main thread alone, whose request to stop is one of each run.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from stem_complete.config import Config
from stem_complete.console import lines_of
from stem_complete.training import StopRequest

LOOK_EVERY_S = 2.0
"""Pause between looks for room: the cluster may grow, and other jobs may end."""

T = TypeVar("T")


def side_by_side(
    runs: Sequence[Config],
    launch_one: Callable[[Config, StopRequest], T],
    stop: StopRequest,
    has_room: Callable[[Sequence[Config]], bool],
) -> list[T]:
    """Launches runs in their order, the next one as soon as there is room beside those under way.

    Args:
        runs: All of them.
        launch_one: Launches one, and ends it early once the request that it gets asks for that.
        stop: Asks all runs to stop.
        has_room: Whether several runs have room at the same time. One alone is launched in any
            case.

    Returns:
        What `launch_one` returned, in the order of the runs.

    Raises:
        Exception: What `launch_one` raised first. The other runs were asked to stop, and did.
        KeyboardInterrupt: Ctrl-C was pressed, and the runs under way have stopped.
        SystemExit: SIGTERM was received, likewise.
    """
    under_way: dict[str, Config] = {}
    returned: dict[str, T] = {}
    failed: list[BaseException] = []
    one_ended = threading.Event()

    def launch(run: Config) -> None:
        try:
            with lines_of(run.name):
                returned[run.name] = launch_one(run, StopRequest(stop))
        except BaseException as error:
            failed.append(error)
            stop(f"{run.name} failed")
        finally:
            del under_way[run.name]
            one_ended.set()

    def wait_while(condition: Callable[[], object]) -> None:
        # Not by `Thread.join`: interrupted, it takes a thread that goes on for one that has ended.
        while condition():
            one_ended.wait(LOOK_EVERY_S)
            one_ended.clear()

    def must_wait(run: Config) -> bool:
        others = list(under_way.values())
        return stop.reason is None and bool(others) and not has_room([*others, run])

    try:
        for run in runs:
            wait_while(partial(must_wait, run))
            if stop.reason is not None:
                break
            under_way[run.name] = run
            threading.Thread(target=launch, args=(run,), name=run.name, daemon=True).start()
        wait_while(lambda: under_way)
    except BaseException:  # Ctrl-C was pressed again, or the cluster does not answer
        stop("the sweep failed")
        wait_while(lambda: under_way)
        raise
    for error in failed:
        if isinstance(error, Exception):  # or what ends a run that was asked to stop
            raise error
    if len(returned) < len(runs):
        raise stop.exit()
    return [returned[run.name] for run in runs]
