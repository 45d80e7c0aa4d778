"""The driver's decisions, with groups that are scripts instead of Ray's."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from stem_complete.errors import ConfigError, TrainingError
from stem_complete.launch.driver import (
    NOTICE_EVERY_S,
    SILENCE_S,
    ControllerLostError,
    Driver,
    WorkersFailedError,
)
from stem_complete.launch.messages import GroupStarted, Message, Metrics
from stem_complete.launch.policy import ROOM_LASTS_S
from stem_complete.training import StopRequest, TrainingResult

DONE = TrainingResult(6, {}, finished=True)
STOPPED = TrainingResult(4, {}, finished=False)


class ScriptedGroup:
    """A group to which a list of looks happens, and which then ends.

    Args:
        clock: Turned a second at each look.
        looks: What happens until the driver looks: messages arrive, or a function is called.
        end: How it ends; or, once it is asked to stop, at the next look.
        silent_s: How long its workers have been silent at each look.
        free: What the cluster has free.
        placed: Whether its workers have their places.
    """

    def __init__(
        self, clock, looks=(), end=DONE, *, silent_s=0.0, free=None, obeys=True, placed=False
    ):
        self.placed = placed
        self.clock, self.end, self.silent_s, self.free = clock, end, silent_s, free or {}
        self.looks: list[Message | Callable[[], object]] = list(looks)
        self.obeys = obeys
        self.asked: list[str] = []
        self.messages: list[Message] = []
        self.is_closed = False

    def has_ended_within(self, seconds):
        if not self.looks or (self.asked and self.obeys):
            return True
        self.clock.turn(1.0)
        look = self.looks.pop(0)
        if callable(look):
            look()
        else:
            self.messages.append(look)
        return False

    def take_messages(self):
        messages, self.messages = self.messages, []
        silent_s = self.silent_s() if callable(self.silent_s) else self.silent_s
        return messages, silent_s

    def ask_to_stop(self, reason):
        self.asked.append(reason)

    def free_resources(self):
        return self.free

    def all_resources(self):
        return {"CPU": 4.0, "memory": 9.0}

    def has_places(self):
        return self.placed

    def result(self):
        if self.asked and self.obeys:
            return STOPPED
        if isinstance(self.end, Exception):
            raise self.end
        return self.end


@pytest.fixture
def stop() -> StopRequest:
    return StopRequest()


@pytest.fixture
def said(monkeypatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr("stem_complete.launch.driver.say", lines.append)
    return lines


@pytest.fixture
def drive(make_config, stop, clock, said):
    """Runs a driver over groups, one after the other."""

    def run(*groups: ScriptedGroup, overrides=(), driver=None) -> TrainingResult | None:
        driver = driver or Driver(make_config(*overrides), stop, clock)
        waiting = list(groups)

        @contextmanager
        def start() -> Iterator[ScriptedGroup]:
            group = waiting.pop(0)
            try:
                yield group
            finally:
                group.is_closed = True

        try:
            return driver.run(start)
        finally:
            driver.progress.close()
            assert not waiting, "groups were left that never started"
            assert all(group.is_closed for group in groups)

    return run


def test_a_group_that_finishes_is_the_end(drive, clock, said):
    assert drive(ScriptedGroup(clock, [GroupStarted(2, ["b", "a", "b"])])) == DONE
    assert said == ["2 workers train on a, b"]


def test_what_workers_send_is_shown_even_after_they_have_ended(drive, clock, said):
    group = ScriptedGroup(clock)
    group.messages.append("worker 1: warning: hot")
    drive(group)
    assert said == ["worker 1: warning: hot"]


def test_a_wish_to_stop_is_passed_on_once(drive, clock, stop):
    looks = [GroupStarted(1, ["a"]), lambda: stop("SIGTERM was received"), *["x"] * 5]
    group = ScriptedGroup(clock, looks, STOPPED, obeys=False)
    assert drive(group) == STOPPED
    assert group.asked == ["SIGTERM was received"]


def test_a_group_that_stopped_itself_is_followed_by_another(drive, clock, said):
    # As when a node is about to be taken away: nobody asked the driver.
    assert drive(ScriptedGroup(clock, end=STOPPED), ScriptedGroup(clock)) == DONE
    assert said == ["stopped after step 4 with a checkpoint, and going on"]


def test_a_group_that_stopped_after_the_users_wish_is_not(drive, clock, stop):
    looks = [GroupStarted(1, ["a"]), lambda: stop("SIGINT was received"), "x"]
    assert drive(ScriptedGroup(clock, looks)) == STOPPED


def test_a_wish_to_stop_while_workers_start_needs_none_of_them(drive, clock, stop):
    group = ScriptedGroup(clock, [lambda: stop("SIGTERM was received"), *["x"] * 5])
    assert drive(group) == TrainingResult(0, {}, finished=False)
    assert group.asked == []
    assert drive() == TrainingResult(0, {}, finished=False)  # nor does another group start


ELASTIC = ("scaling.num_workers=2", "scaling.min_workers=1", "training.batch_size=4",
           "scaling.resize_every_s=10")  # fmt: skip


def test_a_run_beside_others_stops_at_once_when_ctrl_c_was_pressed_again(drive, clock, stop):
    def press():
        with suppress(KeyboardInterrupt):  # it interrupts the main thread, not the run's
            stop.on_signal(signal.SIGINT, None)

    looks = [GroupStarted(1, ["a"]), Metrics(5, {}), press, "x", press, *["x"] * 5]
    group = ScriptedGroup(clock, looks, obeys=False)
    assert drive(group) == TrainingResult(5, {}, finished=False)
    assert len(group.looks) == 5


def test_an_elastic_run_stops_to_grow_and_goes_on_with_more(drive, clock, said):
    small = ScriptedGroup(clock, [GroupStarted(1, ["a"]), *["x"] * 60], free={"CPU": 1.0})
    large = ScriptedGroup(clock, [GroupStarted(2, ["a", "b"])])
    assert drive(small, large, overrides=ELASTIC) == DONE
    assert small.asked == ["the cluster has room for more workers"]
    assert len([x for x in small.looks if x == "x"]) == 60 - 10 - int(ROOM_LASTS_S) - 1
    assert "2 workers train on a, b" in said


def test_a_run_that_is_asked_to_stop_does_not_stop_to_grow(drive, clock, stop):
    looks = [GroupStarted(1, ["a"]), lambda: stop("SIGTERM was received"), *["x"] * 60]
    group = ScriptedGroup(clock, looks, STOPPED, free={"CPU": 1.0}, obeys=False)
    assert drive(group, overrides=ELASTIC) == STOPPED
    assert group.asked == ["SIGTERM was received"]


def test_recovery_is_told_with_the_step_it_lost_sight_of(drive, clock, said):
    looks = [GroupStarted(2, ["a"]), Metrics(3, {}), "x", "x", GroupStarted(2, ["a"])]
    drive(ScriptedGroup(clock, looks))
    assert said[-1] == "2 workers train on a, 3 s after step 3 was reported"


class TestSilence:
    def looks(self, number):
        return ["x"] * number

    def test_is_told_with_what_the_cluster_has(self, drive, clock, said):
        group = ScriptedGroup(clock, self.looks(20), silent_s=1e9, free={"CPU": 0.5, "memory": 9})
        drive(group, overrides=["scaling.num_workers=2", "training.batch_size=4"])
        told = [line for line in said if "waiting" in line]
        needed = "2 workers with 1 CPU each"
        assert told == [f"waiting for {needed} since 16 s; the cluster has 0.5 of 4 CPU free"]

    def test_while_workers_start_blames_no_lack_of_room(self, drive, clock, said):
        drive(ScriptedGroup(clock, self.looks(20), silent_s=1e9, placed=True))
        told = [line for line in said if "waiting" in line]
        assert told == ["waiting for 1 worker to start since 16 s; the cluster has places for them"]

    def test_is_told_from_time_to_time(self, drive, clock, said):
        looks = self.looks(int(SILENCE_S + 3 * NOTICE_EVERY_S) + 1)
        drive(ScriptedGroup(clock, looks, silent_s=1e9))
        assert len([line for line in said if "waiting" in line]) == 4

    def test_of_the_group_before_does_not_count(self, drive, clock, said):
        drive(ScriptedGroup(clock, self.looks(int(SILENCE_S)), silent_s=1e9))
        assert not [line for line in said if "waiting" in line]

    def test_for_too_long_is_an_error(self, drive, clock):
        group = ScriptedGroup(clock, self.looks(40), silent_s=1e9)
        with pytest.raises(
            TrainingError, match=r"1 worker with 1 CPU each within 30 s, found 0 of 4 CPU free"
        ):
            drive(group, overrides=["scaling.wait_for_nodes_s=30"])
        assert len(group.looks) == 40 - 31

    def test_after_a_wish_to_stop_ends_the_run_where_it_stood(self, drive, clock, stop):
        looks = [Metrics(5, {}), lambda: stop("SIGTERM was received"), *self.looks(60)]
        group = ScriptedGroup(clock, looks, silent_s=1e9, obeys=False)
        assert drive(group) == TrainingResult(5, {}, False)

    def test_makes_room_seen_before_worthless(self, drive, clock):
        # The free place is that of a worker that was lost, and will be taken by its successor.
        silence = iter([0.0] * 25 + [99.0] + [0.0] * 20 + [0.0] * 60)
        looks = [GroupStarted(1, ["a"]), *self.looks(45)]
        group = ScriptedGroup(clock, looks, silent_s=lambda: next(silence), free={"CPU": 1.0})
        assert drive(group, overrides=ELASTIC) == DONE
        assert group.asked == []


class TestFailures:
    def test_of_the_config_or_the_data_are_raised_as_they_are(self, drive, clock):
        error = ConfigError(expected="a", found="b", where="c", fix="d")
        with pytest.raises(ConfigError) as caught:
            drive(ScriptedGroup(clock, end=error))
        assert caught.value is error

    def test_of_workers_end_the_run(self, drive, clock):
        with pytest.raises(
            TrainingError, match=r"workers that finish, found rank 1 died; .*goes on"
        ):
            drive(ScriptedGroup(clock, end=WorkersFailedError("rank 1 died")))

    def test_of_workers_of_another_version_have_a_fix_of_their_own(self, drive, clock):
        failure = "ModuleNotFoundError: No module named 'stem_complete.training.claim'"
        with pytest.raises(TrainingError, match=r"claim'; install the same version of stem-compl"):
            drive(ScriptedGroup(clock, end=WorkersFailedError(failure)))

    def test_that_a_signal_may_have_ended_are_no_failure(self, drive, clock, stop):
        def signalled():
            stop.on_signal(signal.SIGTERM, None)

        looks = [Metrics(3, {}), GroupStarted(1, ["a"]), signalled, "x"]
        group = ScriptedGroup(clock, looks, WorkersFailedError("all died"), obeys=False)
        assert drive(group) == TrainingResult(3, {}, finished=False)

    def test_of_a_controller_need_a_new_connection(self, drive, clock, said):
        assert drive(ScriptedGroup(clock, end=ControllerLostError("it was killed"))) is None
        assert said == ["Ray Train's controller died (it was killed); starting another"]

    def test_of_any_number_of_controllers_are_survived_if_the_config_says_so(
        self, drive, make_config, stop, clock
    ):
        driver = Driver(make_config("scaling.max_failures=-1"), stop, clock)
        lost = [ScriptedGroup(clock, end=ControllerLostError("killed")) for _ in range(10)]
        assert [drive(group, driver=driver) for group in lost] == [None] * 10

    def test_of_more_controllers_than_allowed_end_the_run(self, drive, clock, make_config, stop):
        driver = Driver(make_config("scaling.max_failures=2"), stop, clock)
        lost = [ScriptedGroup(clock, end=ControllerLostError("killed")) for _ in range(3)]
        assert [drive(group, driver=driver) for group in lost[:2]] == [None, None]
        with pytest.raises(TrainingError, match="found killed"):
            drive(lost[2], driver=driver)
