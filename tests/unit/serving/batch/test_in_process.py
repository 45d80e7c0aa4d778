"""Units that take too long in this process, which a worker tells by itself here."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from stem_complete.inference import Outputs
from stem_complete.serving.batch import in_process
from stem_complete.serving.batch.files import CompletedFiles
from stem_complete.serving.batch.in_process import InProcess
from stem_complete.serving.batch.sources import Source
from stem_complete.serving.batch.units import Job, Outcome, ScanResult, Unit
from stem_complete.time_limit import OutOfTimeError


class SlowWorker:
    """Takes too long with some scans."""

    def __init__(self, slow):
        self.slow, self.singly = slow, []

    def complete(self, parcel):
        given_up = {(unit.name, each.place) for unit in parcel for each in unit.given_up}
        if self.slow - given_up:
            raise OutOfTimeError
        return [
            Outcome(
                tuple(
                    ScanResult("failed" if (unit.name, place) in given_up else "done", {})
                    for place in range(len(unit.scans))
                ),
                {},
            )
            for unit in parcel
        ]

    def try_scan(self, unit, place):
        self.singly.append(place)
        if (unit.name, place) in self.slow:
            raise OutOfTimeError

    def close(self):
        pass


@pytest.mark.parametrize(
    ("slow", "listed", "singly"),
    [
        (set(), [], []),
        ({("u", 1)}, [1], [0, 1, 2, 3]),
        ({("u", 0), ("u", 3)}, [0, 3], [0, 1, 2, 3]),
        ({("together", 0)}, [0, 1, 2, 3], [0, 1, 2, 3]),
    ],
    ids=["none", "one", "two", "only-together"],
)
def test_of_a_shard_only_the_scans_that_take_too_long_are_listed(monkeypatch, slow, listed, singly):
    worker = SlowWorker(slow)
    monkeypatch.setattr(in_process, "Worker", lambda *_: worker)
    completer = SimpleNamespace(card=None, precision="float32", device=SimpleNamespace(type="cpu"))
    parcel = (Unit("u", (Source("s"),) * 4),)
    job = Job(CompletedFiles("out", ".tif", Outputs()), None, False, {}, 1)
    [(back, [outcome])] = InProcess(completer).run(job, [parcel], 60.0)
    assert back == parcel
    assert [n for n, each in enumerate(outcome.results) if each.state == "failed"] == listed
    assert worker.singly == singly
