from __future__ import annotations

import errno
import math
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stem_complete.tracking.journal import Entry, File, Journal, Scalars

VALUES = st.dictionaries(st.text(max_size=5), st.floats(), max_size=3)


def read_all(journal: Journal, start: int = 0) -> list[Entry]:
    return [entry for entries, _ in journal.read(start) for entry in entries]


def scalars(step: int) -> Scalars:
    return Scalars(1, step, {})


def steps(journal: Journal, start: int = 0) -> list[int]:
    return [entry.step for entry in read_all(journal, start) if isinstance(entry, Scalars)]


@given(values=st.lists(VALUES, max_size=8))
def test_entries_come_back_in_order(
    values: list[dict[str, float]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    journal = Journal(tmp_path_factory.mktemp("journal") / "metrics.jsonl")
    for step, value in enumerate(values):
        journal.append(Scalars(1, step, value))
    file = File(2, "completions/p.png", "completions")
    journal.append(file)
    *read, last = read_all(journal)
    assert last == file
    for step, (entry, value) in enumerate(zip(read, values, strict=True)):
        assert isinstance(entry, Scalars)
        assert (entry.time, entry.step) == (1, step)
        assert entry.values.keys() == value.keys()
        for key, number in value.items():
            same = math.isnan(number) and math.isnan(entry.values[key])
            assert same or entry.values[key] == number


def test_reads_are_bounded_and_continue(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "metrics.jsonl")
    for step in range(1000):
        journal.append(scalars(step))
    first, offset = next(journal.read(0))
    assert len(first) < 1000
    assert [entry.step for entry in first] + steps(journal, offset) == list(range(1000))


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_half_a_line_costs_only_itself(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "metrics.jsonl"
    journal = Journal(path)
    for step in range(3):
        journal.append(scalars(step))
    path.write_bytes(path.read_bytes()[:-cut])
    assert steps(Journal(path)) == [0, 1]
    Journal(path).append(scalars(3))
    assert steps(Journal(path)) == [0, 1, *([2] if cut == 1 else []), 3]


def test_a_new_run_begins_where_the_old_one_ended(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    Journal(path).append(scalars(0))
    journal = Journal(path)
    journal.begin(1000)
    for step in (1, 2):
        journal.append(scalars(step))
        journal = Journal(path)
        journal.begin(1000)  # the same run, started again
    journal.begin(0)  # and resumed by another driver
    assert steps(journal, journal.start) == steps(Journal(path), Journal(path).start) == [1, 2]
    journal.begin(2000)
    assert steps(journal, journal.start) == steps(Journal(path), Journal(path).start) == []


def test_a_run_begins_also_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path / "metrics.jsonl")
    journal.append(scalars(0))
    with monkeypatch.context() as full:
        full.setattr(Path, "open", refuse)
        with pytest.raises(OSError, match="full"):
            journal.begin(1000)
    journal.append(scalars(1))
    assert steps(journal, journal.start) == [1]
    assert steps(Journal(journal.path), Journal(journal.path).start) == [1]


def test_what_a_full_disk_does_not_take_is_written_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path / "metrics.jsonl")
    journal.append(scalars(0))
    with monkeypatch.context() as full:
        full.setattr(Path, "open", refuse)
        for step in range(1, 100):
            with pytest.raises(OSError, match="full"):
                journal.append(scalars(step))
        assert journal.num_waiting() == 99
    journal.append(scalars(100))
    assert journal.num_waiting() == 0
    assert steps(journal) == list(range(101))


def test_what_a_disk_takes_in_part_is_written_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Room for a few bytes more: the system writes those, and fails on the rest."""
    journal = Journal(tmp_path / "metrics.jsonl")
    journal.append(scalars(0))
    room = journal.size() + 50

    class Nearly:
        def __init__(self, file: Any) -> None:
            self.file = file

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def write(self, content: bytes) -> int:
            left = room - self.file.seek(0, os.SEEK_END)
            if not left:
                raise OSError(errno.ENOSPC, "No space left on device")
            return self.file.write(content[:left])

    with monkeypatch.context() as full:
        path_open = Path.open
        full.setattr(Path, "open", lambda *a, **k: Nearly(path_open(*a, **k)))
        journal.append(scalars(1))
        for step in (2, 3):
            with pytest.raises(OSError, match="No space"):
                journal.append(scalars(step))
    assert steps(journal) == [0, 1]
    journal.append(scalars(4))
    assert steps(journal) == [0, 1, 2, 3, 4]
    assert len(journal.path.read_bytes().splitlines()) == 5


def test_memory_stays_bounded_and_curves_evenly_spread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stem_complete.tracking.journal.MOST_WAITING", 100)
    journal = Journal(tmp_path / "metrics.jsonl")
    picture = File(1, "completions/p.png", "completions")
    with monkeypatch.context() as full:
        full.setattr(Path, "open", refuse)
        for step in range(3000):
            with suppress(OSError):
                journal.append(Scalars(1, step, {"loss": 1.0}))
            if step % 100 == 0:
                for rare in (Scalars(1, step, {"validation": 2.0}), picture):
                    with suppress(OSError):
                        journal.append(rare)
        assert journal.num_waiting() <= 100 + 30 + 30
    journal.append(Scalars(1, 3000, {"loss": 1.0}))
    entries = read_all(journal)
    loss = [
        entry.step for entry in entries if isinstance(entry, Scalars) and "loss" in entry.values
    ]
    assert len(loss) > 90
    assert loss == [*range(0, 3000, 32), 3000]
    assert len(entries) == len(loss) + 30 + 30


def refuse(*_: object, **__: object) -> None:
    raise OSError("disk full")


def test_a_line_of_another_kind_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"time": 1, "note": "x"}\n[]\n{"time": 1, "step": 2, "values": {}}\n')
    assert steps(Journal(path)) == [2]


@pytest.mark.parametrize(
    "state",
    [
        '{"since": 1, "start": 1000, "delivered": {"a": 1000}}',
        '{"since": 1, "start": "x"}',
        '{"a": 3}',
        "[]",
        "",
        "\0\xff",
    ],
)
def test_a_state_of_an_earlier_version_that_cannot_be_true_is_not_believed(
    tmp_path: Path, state: str
) -> None:
    path = tmp_path / "metrics.jsonl"
    Journal(path).append(scalars(0))
    (tmp_path / "metrics.jsonl.state").write_text(state)
    assert Journal(path).start == 0


def test_goes_on_after_a_failed_write(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    journal = Journal(path)
    journal.append(scalars(0))
    path.rename(tmp_path / "kept")
    path.mkdir()
    with pytest.raises(IsADirectoryError):
        journal.append(scalars(1))
    path.rmdir()
    (tmp_path / "kept").rename(path)
    journal.append(scalars(2))
    assert steps(journal) == [0, 1, 2]
