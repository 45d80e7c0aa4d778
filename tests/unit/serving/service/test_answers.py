"""Answers say of themselves what fits."""

import json

import numpy as np

from stem_complete.data.scans import RasterScan
from stem_complete.inference.completer import CompletedScan, Completion
from stem_complete.serving.service.answers import encoded, in_header, told_of
from stem_complete.serving.service.completing import Done, How
from stem_complete.serving.service.media import ANSWERS, JSON
from stem_complete.serving.service.metrics import Metrics


def done(completer, notes=()) -> Done:
    values = np.random.default_rng(0).random((40, 40))
    scan = RasterScan(values, (values > 0.5) * 1.0, where="µ\nscan", notes=notes)
    image = values.astype(np.float32)
    return Done(CompletedScan(scan, Completion(image, 0.1 * image), completer.card), 3, 0.25)


def test_a_header_is_ascii_and_json_however_many_notes_there_are(completer):
    notes = [f"note {i} é " + 50 * "x" for i in range(200)]
    header = in_header(told_of(done(completer, notes), How(self_check=False)))
    assert header.isascii()
    assert "\n" not in header
    assert len(header) <= 4000
    told = json.loads(header)
    assert told["shape"] == [40, 40]
    assert told["notes"] == notes[: len(told["notes"])]
    assert 10 < len(told["notes"]) < 200


def test_each_format_can_be_made_and_json_has_no_nan(completer):
    made = done(completer)
    for media in ANSWERS:
        content, told = encoded(made, How(self_check=False), media)
        assert len(content) > 100
        assert told["batch_size"] == 3
    content, _ = encoded(made, How(self_check=False), JSON)
    assert b"NaN" not in content
    assert json.loads(content)["expected_error"] > 0


def test_figures_stay_few_whatever_clients_send(completer):
    metrics = Metrics()
    for number in range(100):
        metrics.answered(f"FOO{number}", "other", 405, 0.1)
    metrics.completed(done(completer))
    lines = metrics.text().decode().splitlines()
    counted = [line for line in lines if line.startswith("stem_complete_requests_total")]
    assert counted == [
        'stem_complete_requests_total{method="other",route="other",status="405"} 100.0'
    ]
    assert "stem_complete_pixels_total 1600.0" in lines
