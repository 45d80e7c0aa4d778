"""A run is held by one living process at a time."""

from __future__ import annotations

import json
import os
import threading
import time
from contextlib import suppress
from itertools import count

import pytest
import torch
from upath import UPath

from stem_complete.errors import BusyError
from stem_complete.storage import claim
from stem_complete.storage.claim import CLAIM_FILE, ClaimLostError, claimed
from stem_complete.training import Checkpoints

unique = count()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Everything takes a hundredth of its time."""
    for name in ("BEAT_S", "LAPSE_S", "SETTLE_S", "_POLL_S"):
        monkeypatch.setattr(claim, name, getattr(claim, name) / 100)


@pytest.fixture(params=["disk", "object store"])
def run(request, tmp_path):
    return (
        tmp_path / "run" if request.param == "disk" else UPath(f"memory://claimed-{next(unique)}")
    )


@pytest.fixture
def elsewhere(monkeypatch):
    """From now on this is another machine."""
    return lambda: monkeypatch.setattr(claim, "_machine", lambda: "another")


def rewrite(run, **changes):
    """Changes what the claim says."""
    values = json.loads((run / CLAIM_FILE).read_bytes())
    (run / CLAIM_FILE).write_bytes(json.dumps(values | changes).encode())


def test_a_second_one_is_told_who_holds_it(run):
    with claimed(run):
        with (
            pytest.raises(BusyError, match=rf"found process {os.getpid()} of .* on .* since .*UTC"),
            claimed(run),
        ):
            pass
        assert (run / CLAIM_FILE).exists()
    assert not (run / CLAIM_FILE).exists()
    with claimed(run):
        pass


def test_an_error_frees_it(run):
    with pytest.raises(KeyboardInterrupt), claimed(run):
        raise KeyboardInterrupt
    assert not (run / CLAIM_FILE).exists()


def left_behind(run, **changes):
    """A claim whose holder gives no sign of life."""
    with claimed(run):
        content = (run / CLAIM_FILE).read_bytes()
    (run / CLAIM_FILE).write_bytes(content)
    rewrite(run, **changes)


@pytest.mark.parametrize("changes", [{"pid": 2**22 + 1}, {"birth": "1"}], ids=["gone", "another"])
def test_that_of_a_dead_process_on_this_machine_lapses_at_once(run, changes, capsys):
    left_behind(run, **changes)
    with claimed(run):
        pass
    assert "looking" not in capsys.readouterr().err


def test_that_of_a_run_that_was_copied_lapses(run, tmp_path, capsys):
    with claimed(run):
        (tmp_path / "copy").mkdir()
        (tmp_path / "copy" / CLAIM_FILE).write_bytes((run / CLAIM_FILE).read_bytes())
        with claimed(tmp_path / "copy"):
            pass
    assert "taking over" in capsys.readouterr().err


class TestOnAnotherMachine:
    def test_a_living_holder_is_seen_by_its_signs_of_life(self, run, elsewhere, capsys):
        with claimed(run):
            elsewhere()
            with pytest.raises(BusyError, match="its last sign of life 0 s ago"), claimed(run):
                pass
        assert "looking for up to" in capsys.readouterr().err

    def test_a_dead_holder_is_known_by_having_given_none(self, run, elsewhere, capsys):
        left_behind(run)
        elsewhere()
        with claimed(run):
            pass
        assert "gave no sign of life for 0 s: taking over" in capsys.readouterr().err

    def test_a_torn_claim_lapses(self, run):
        left_behind(run)
        (run / CLAIM_FILE).write_bytes(b'{"id": "')
        with claimed(run):
            pass

    def test_a_holder_that_ends_meanwhile_makes_room(self, run, elsewhere, monkeypatch):
        monkeypatch.setattr(claim, "LAPSE_S", 60.0)
        left_behind(run)
        elsewhere()
        ends = threading.Timer(0.1, (run / CLAIM_FILE).unlink)
        ends.start()
        with claimed(run):
            ends.join()


def test_one_at_a_time_of_many_gets_it(tmp_path, monkeypatch):
    monkeypatch.setattr(claim, "LAPSE_S", 60.0)
    start, inside, alone = threading.Barrier(8, timeout=60), threading.Lock(), []

    def take():
        start.wait()
        with suppress(BusyError), claimed(tmp_path):
            alone.append(inside.acquire(blocking=False))
            time.sleep(0.2)
            inside.release()

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(alone) == {True}


class TestAHolder:
    def test_that_stood_still_is_told_that_another_took_over(self, run):
        lost = threading.Event()
        with claimed(run, on_loss=lambda reason: lost.set()) as held:
            rewrite(run, id="another")
            assert lost.wait(10)
            with pytest.raises(ClaimLostError, match="found it claimed by process"):
                held.check()
        assert json.loads((run / CLAIM_FILE).read_bytes())["id"] == "another"

    def test_that_stood_still_writes_no_checkpoint(self, run):
        with claimed(run) as held:
            checkpoints = Checkpoints(run, claim=held)
            save(checkpoints, 1)
            rewrite(run, id="another")
            with pytest.raises(ClaimLostError):
                save(checkpoints, 2)
            assert [folder.name for folder in checkpoints.folders()] == ["step-00000001"]

    def test_needs_no_room_on_the_disk_for_signs_of_life(self, tmp_path):
        with claimed(tmp_path):
            content, before = (tmp_path / CLAIM_FILE).read_bytes(), (tmp_path / CLAIM_FILE).stat()
            deadline = time.monotonic() + 10
            while (now := (tmp_path / CLAIM_FILE).stat()).st_mtime_ns == before.st_mtime_ns:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            assert now.st_ino == before.st_ino
            assert (tmp_path / CLAIM_FILE).read_bytes() == content


def save(checkpoints, step):
    checkpoints.save(step, {"task": {"w": torch.ones(3)}}, config={}, metrics={}, score=None)
    checkpoints.wait()
