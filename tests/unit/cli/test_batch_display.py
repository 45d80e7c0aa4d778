"""What a batch shows while it works."""

from __future__ import annotations

import json

from stem_complete.cli.batch_display import BatchDisplay
from stem_complete.errors import Failure
from stem_complete.serving.batch.sources import Source
from stem_complete.serving.batch.units import Outcome, ScanResult, Unit

UNIT = Unit("0", (Source("a", number=1), Source("b")), rows=(0, 1))


def outcome(*states, worker="host:1"):
    why = {"done": None, "failed": Failure("why", "what to do")}
    results = tuple(ScanResult(state, {}, failure=why[state]) for state in states)
    return Outcome(results, {}, worker)


def test_programs_get_a_line_for_each_scan(capsys):
    with BatchDisplay(as_json=True) as display:
        display.note(UNIT, outcome("done", "failed"))
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        {"scan": "a[1]", "unit": "0", "state": "done", "worker": "host:1"},
        {"scan": "b", "unit": "0", "state": "failed"}
        | {"reason": "why", "fix": "what to do", "worker": "host:1"},
    ]


def test_people_see_rates_of_workers_failures_and_time_left(monkeypatch):
    shown = []
    now = [0.0]
    monkeypatch.setattr("stem_complete.cli.batch_display.time.monotonic", lambda: now[0])
    display = BatchDisplay()
    monkeypatch.setattr(display, "_bar", type("Bar", (), {"show": lambda _, *a: shown.append(a)})())
    display.show(3, 12)  # there already
    now[0] = 2.0
    display.note(UNIT, outcome("done", "done"))
    display.note(UNIT, outcome("done", "failed", worker="host:2"))
    display.show(7, 12)
    assert shown[0] == (3, 12, "", None)
    done, total, details, left_s = shown[1]
    assert (done, total) == (7, 12)
    assert details == "1.5 scans/s (0.5 to 1 each of 2 workers)  1 failed"
    assert left_s == 5 / 1.5
