from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stem_complete.tracking.journal import Journal, state_of

VALUES = st.dictionaries(st.text(max_size=5), st.floats(), max_size=3)


def read_all(journal: Journal, start: int = 0) -> list[dict]:
    entries = []
    while True:
        more, end = journal.read(start)
        if end == start:
            return entries
        entries, start = [*entries, *more], end


@given(values=st.lists(VALUES, max_size=20))
def test_entries_come_back_in_order(
    values: list[dict[str, float]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    journal = Journal(tmp_path_factory.mktemp("journal") / "metrics.jsonl")
    for step, value in enumerate(values):
        journal.append({"time": 1, "step": step, "values": value})
    read = read_all(journal)
    assert [entry["step"] for entry in read] == list(range(len(values)))
    for entry, value in zip(read, values, strict=True):
        assert entry["values"].keys() == value.keys()
        for key, number in value.items():
            same = math.isnan(number) and math.isnan(entry["values"][key])
            assert same or entry["values"][key] == number


def test_reads_are_bounded_and_continue(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "metrics.jsonl")
    for step in range(1000):
        journal.append({"step": step})
    first, offset = journal.read(0)
    assert len(first) < 1000
    assert [e["step"] for e in [*first, *read_all(journal, offset)]] == list(range(1000))


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_half_a_line_costs_only_itself(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "metrics.jsonl"
    journal = Journal(path)
    for step in range(3):
        journal.append({"time": 1, "step": step})
    path.write_bytes(path.read_bytes()[:-cut])
    assert [e["step"] for e in read_all(Journal(path))] == [0, 1]
    Journal(path).append({"time": 1, "step": 3})
    assert [e["step"] for e in read_all(Journal(path))] == [0, 1, *([2] if cut == 1 else []), 3]


def test_marks_are_per_run_and_stay(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    journal = Journal(path)
    assert journal.is_delivered()  # there is nothing
    for step in range(3):
        journal.append({"step": step})
    assert journal.delivered("a") == 0
    assert not journal.is_delivered()
    journal.mark("a", 10)
    journal.mark("b", 20)
    journal.mark("a", journal.size())
    assert journal.is_delivered()
    for each in (journal, Journal(path)):
        marks = [each.delivered(run) for run in "abc"]
        assert marks == [journal.size(), 20, 0]
    journal.append({"step": 3})
    assert not journal.is_delivered()
    assert [entry["step"] for entry in read_all(journal)] == [0, 1, 2, 3]


def test_a_new_run_begins_where_the_old_one_ended(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    Journal(path).append({"step": 0})
    journal = Journal(path)
    journal.begin(1000)
    assert journal.is_delivered()  # what there is, is of another run
    for step in (1, 2):
        journal.append({"step": step})
        journal = Journal(path)
        journal.begin(1000)  # the same run, started again
    journal.begin(0)  # and resumed by another driver
    for run in ("new", "of another server"):
        assert [e["step"] for e in read_all(journal, journal.delivered(run))] == [1, 2]
    assert not journal.is_delivered()
    journal.begin(2000)
    assert read_all(journal, journal.delivered("newest")) == []


def test_a_state_that_cannot_be_written_is_kept_in_memory(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "metrics.jsonl")
    state_of(journal.path).mkdir()
    journal.append({"step": 0})
    journal.begin(1000)
    journal.mark("a", 1)
    assert journal.delivered("a") == journal.size()


@pytest.mark.parametrize(
    "state",
    [
        '{"since": 1, "start": 1000, "delivered": {"a": 1000}}',
        '{"since": 1, "start": 0, "delivered": {"a": "x"}}',
        '{"a": 3}',
        "[]",
        "",
        "\0\xff",
    ],
)
def test_a_state_that_cannot_be_true_is_not_believed(tmp_path: Path, state: str) -> None:
    path = tmp_path / "metrics.jsonl"
    Journal(path).append({"step": 0})
    state_of(path).write_text(state)
    assert Journal(path).delivered("a") == 0


def test_goes_on_after_a_failed_write(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    journal = Journal(path)
    journal.append({"step": 0})
    path.rename(tmp_path / "kept")
    path.mkdir()
    with pytest.raises(IsADirectoryError):
        journal.append({"step": 1})
    path.rmdir()
    (tmp_path / "kept").rename(path)
    journal.append({"step": 2})
    assert [e["step"] for e in read_all(journal)] == [0, 2]
