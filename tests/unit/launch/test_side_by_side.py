"""Runs of a sweep side by side: which start when, and how all of them end."""

from __future__ import annotations

import signal
import threading
from types import SimpleNamespace

import pytest

from stem_complete.errors import TrainingError
from stem_complete.launch.side_by_side import side_by_side
from stem_complete.training import StopRequest

NAMES = ["a", "b", "c", "d"]
RUNS = [SimpleNamespace(name=name) for name in NAMES]
TIMEOUT_S = 60.0
"""Only for what hangs."""


class Trainings:
    """Stands for training: each run waits until the test lets it end, or asks it to stop."""

    def __init__(self, *, ends_by_itself: bool = True) -> None:
        self.stop = StopRequest()
        self.ends_by_itself = ends_by_itself
        self.started: list[str] = []
        self.stopped: list[str] = []
        self.under_way: set[str] = set()
        self.most = 0
        self.errors: dict[str, BaseException] = {}
        self.together = threading.Barrier(1)

    def launch(self, run, stop: StopRequest) -> str:
        self.started.append(run.name)
        self.under_way.add(run.name)
        self.most = max(self.most, len(self.under_way))
        try:
            self.together.wait(TIMEOUT_S)
            if run.name in self.errors:
                raise self.errors[run.name]
            while not self.ends_by_itself:
                if stop.at_once or stop.reason is not None:
                    self.stopped.append(run.name)
                    raise stop.exit()
                threading.Event().wait(0.01)
            return f"result of {run.name}"
        finally:
            self.under_way.remove(run.name)

    def run(self, at_a_time: int) -> list[str]:
        return side_by_side(RUNS, self.launch, self.stop, lambda runs: len(runs) <= at_a_time)


@pytest.fixture
def trainings() -> Trainings:
    return Trainings()


@pytest.mark.parametrize("at_a_time", [2, 4])
def test_as_many_are_under_way_as_have_room(trainings, at_a_time):
    trainings.together = threading.Barrier(at_a_time)  # nobody passes it alone
    assert trainings.run(at_a_time) == [f"result of {name}" for name in NAMES]
    assert sorted(trainings.started) == NAMES
    assert trainings.most == at_a_time


@pytest.mark.parametrize("at_a_time", [0, 1])
def test_one_is_under_way_at_a_time_where_no_two_or_not_even_one_has_room(trainings, at_a_time):
    assert trainings.run(at_a_time) == [f"result of {name}" for name in NAMES]
    assert trainings.started == NAMES
    assert trainings.most == 1


def test_an_error_stops_those_under_way_and_starts_no_others():
    trainings = Trainings(ends_by_itself=False)
    trainings.together = threading.Barrier(2)
    trainings.errors["b"] = error = TrainingError(expected="a", found="b", where="c", fix="d")
    with pytest.raises(TrainingError) as raised:
        trainings.run(2)
    assert raised.value is error
    assert sorted(trainings.started) == ["a", "b"]
    assert trainings.stopped == ["a"]
    assert trainings.stop.reason == "b failed"


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_a_signal_stops_all_and_starts_no_others(number, error):
    trainings = Trainings(ends_by_itself=False)
    trainings.together = threading.Barrier(2, action=lambda: trainings.stop.on_signal(number, None))
    with pytest.raises(error):
        trainings.run(2)
    assert sorted(trainings.stopped) == sorted(trainings.started) == ["a", "b"]


def test_a_signal_that_comes_when_all_have_ended_changes_nothing(trainings):
    trainings.together = threading.Barrier(
        4, action=lambda: trainings.stop.on_signal(signal.SIGTERM, None)
    )
    assert trainings.run(4) == [f"result of {name}" for name in NAMES]


def test_what_interrupts_the_main_thread_is_raised_once_all_have_ended():
    trainings = Trainings(ends_by_itself=False)

    def has_room(runs):
        trainings.stop.on_signal(signal.SIGINT, None)
        trainings.stop.on_signal(signal.SIGINT, None)

    with pytest.raises(KeyboardInterrupt):
        side_by_side(RUNS, trainings.launch, trainings.stop, has_room)
    assert trainings.stop.at_once
    assert trainings.stopped == ["a"]
    assert not trainings.under_way
