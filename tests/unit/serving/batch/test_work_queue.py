"""What becomes of units that kill or outlast workers, with a worker that does as it is told."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stem_complete.errors import Failure
from stem_complete.serving.batch.units import Apart
from stem_complete.serving.batch.work_queue import WorkQueue


class Word(NamedTuple):
    """A unit whose parts are its letters; capital ones kill workers."""

    letters: str
    lost: str = ""
    is_trial: bool = False

    def kills(self):
        return any(letter.isupper() and letter not in self.lost for letter in self.letters)


class Reading:
    """A job; what becomes of a word are the letters of it that are lost."""

    def apart(self, unit):
        if len(unit.letters) == 1:
            return None
        parts = [Word(letter, is_trial=True) for letter in unit.letters]
        return Apart(parts, lambda lost: unit._replace(lost="".join(lost.values())))

    def lost(self, unit, failure):
        return unit.letters


DIED = Failure("it died", "give it more memory")


def work_through(
    parcels, kills=lambda todo: any(unit.kills() for unit in todo), most=1, num_done=9
):
    """What came back of each unit, and how often each parcel was tried, and each part."""
    queue, tries, found = WorkQueue(Reading(), parcels, 10.0), Counter(), {}
    for _ in range(1000):
        if not queue.num_left:
            break
        items = queue.take(most)
        todo = tuple(unit for item in items for unit in item.todo)
        tries["".join(unit.letters for unit in todo), todo[0].is_trial] += 1
        settled = []
        if kills(todo):
            settled += queue.fail(items, DIED)
        else:
            queue.give_back(items[num_done:])
            for item in items[:num_done]:
                settled += queue.finish(item, [unit.lost for unit in item.todo])
        for units, results in settled:
            for unit, result in zip(units, results, strict=True):
                assert unit not in found, "given back twice"
                found[unit] = result
    assert (queue.num_left, len(queue)) == (0, 0)
    return found, tries


letters = st.text("abcABC", min_size=1, max_size=5)


@given(
    st.lists(st.lists(letters, min_size=1, max_size=3), max_size=4),
    st.integers(1, 4),
    st.integers(1, 4),
)
def test_whatever_kills_workers_is_lost_and_nothing_else(words, most, num_done):
    # Numbered, as the same word may be there twice.
    number = iter(range(99))
    parcels = [tuple(Word(f"{word}{next(number)}") for word in parcel) for parcel in words]
    found, _ = work_through(parcels, most=most, num_done=num_done)
    assert found == {
        unit: "".join(letter for letter in unit.letters if letter.isupper())
        for parcel in parcels
        for unit in parcel
    }


def test_a_part_that_kills_is_tried_twice_by_itself_and_its_unit_goes_on_without_it():
    found, tries = work_through([(Word("abCd"),), (Word("ef"),)])
    assert found == {Word("abCd"): "C", Word("ef"): ""}
    parts = {("a", True): 1, ("b", True): 1, ("C", True): 2, ("d", True): 1}
    assert tries == {("abCd", False): 3, ("ef", False): 1} | parts


def test_units_of_a_parcel_are_done_one_by_one():
    found, tries = work_through([(Word("a"), Word("B"), Word("c"))])
    assert found == {Word("a"): "", Word("B"): "B", Word("c"): ""}
    assert tries == {("aBc", False): 2, ("a", False): 1, ("B", False): 2, ("c", False): 1}


@pytest.mark.parametrize(
    ("num_deaths", "lost", "num_trials"), [(1, "", 0), (2, "", 3), (3, "abc", 3)]
)
def test_a_unit_that_dies_only_as_a_whole_has_a_third_try(num_deaths, lost, num_trials):
    deaths = iter(range(num_deaths))

    def kills(todo):
        return not todo[0].is_trial and next(deaths, None) is not None

    found, tries = work_through([(Word("abc"),)], kills)
    assert found == {Word("abc"): lost}
    assert sum(n for (_, is_trial), n in tries.items() if is_trial) == num_trials


def test_what_fails_is_tried_next_and_what_waited_behind_it_after_that():
    queue = WorkQueue(Reading(), [(Word(letter),) for letter in "Abc"], 10.0)
    under_way, behind = queue.take(), queue.take()
    queue.give_back(behind)
    assert queue.fail(under_way, DIED) == []
    assert [letters_of(queue.take(9)) for _ in range(2)] == ["A", "bc"]


def test_what_was_given_together_when_a_worker_died_is_tried_one_by_one():
    queue = WorkQueue(Reading(), [(Word(letter),) for letter in "abcd"], 10.0)
    assert queue.fail(queue.take(2), DIED) == []
    assert [letters_of(queue.take(9)) for _ in range(3)] == ["a", "b", "cd"]


def letters_of(items):
    return "".join(unit.letters for item in items for unit in item.parcel)


def test_the_limit_is_of_all_units_that_a_worker_gets_at_once_and_is_told():
    class Telling(Reading):
        def lost(self, unit, failure):
            return str(failure)

    queue = WorkQueue(Telling(), [(Word("a"), Word("b"))], 10.0)
    limits_s, told = [], []
    while queue.num_left:
        (item,) = queue.take()
        limits_s.append(queue.limit_s(item))
        told += [result for _, (result,) in queue.time_out([item])]
    assert limits_s == [20.0, 20.0, 10.0, 10.0, 10.0, 10.0]
    assert told == 2 * [
        "it took longer than 10 s, 2 times; look at the scan, or give more time with --timeout"
    ]
