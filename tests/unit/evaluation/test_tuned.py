"""Which tuned parameters a scan takes."""

from __future__ import annotations

import pytest

from stem_complete.evaluation import BASELINES, PROTOCOL, PROTOCOL_BASELINES, tuned
from stem_complete.evaluation.tuned import dose_of, parameters, read_tuned

TABLE = {
    "spline": {
        "curves": {
            "none": {"1/2": {"fidelity": 1}, "1/50": {"fidelity": 2}},
            "dose 1000": {"1/2": {"fidelity": 3}},
            "dose 20": {"1/2": {"fidelity": 4}},
            "published": {"1/2": {"fidelity": 5}},
        },
        "pixels": {"none": {"1/2": {"fidelity": 6}}},
    },
}


@pytest.mark.parametrize(
    ("geometry", "coverage", "noise", "fidelity"),
    [
        ("archimedean", "1/2", "none", 1),
        ("archimedean", "1/9", "none", 1),
        ("archimedean", "1/11", "none", 2),  # 1/10 is halfway by ratio
        ("lissajous", "1/87", "none", 2),
        ("archimedean", "1/2", "dose 150", 3),
        ("archimedean", "1/2", "dose 130, readout 2", 4),
        ("archimedean", "1/2", "dose 3 to 300", 4),
        ("published", "1/22", "published", 5),
        ("random", "1/20", "none", 6),
        ("random", "1/2", "dose 20", None),
        ("archimedean", "1/2", "none by pixels", None),
    ],
)
def test_parameters_are_those_of_the_nearest_kind_of_scan(
    monkeypatch: pytest.MonkeyPatch, geometry: str, coverage: str, noise: str, fidelity: int | None
) -> None:
    monkeypatch.setattr(tuned, "read_tuned", lambda: TABLE)
    found = parameters("spline", geometry, coverage, noise)
    assert (found and found["fidelity"]) == fidelity
    assert parameters("nearest", geometry, coverage, noise) is None


def test_every_cell_of_the_protocol_has_parameters_that_its_methods_take() -> None:
    for condition in PROTOCOL:
        for name in ("spline", "normalised_convolution"):
            assert parameters(name, *condition.labels), (name, condition.labels)
    scans = ("archimedean", "1/2", "dose 20")
    assert set(read_tuned()) <= set(BASELINES)
    for name in PROTOCOL_BASELINES:
        options = BASELINES[name].__kwdefaults__ or {}
        assert set(parameters(name, *scans) or {}) <= set(options)


def test_doses_are_read_from_labels() -> None:
    assert dose_of("dose 20") == 20
    assert dose_of("dose 4 to 100, readout 2") == pytest.approx(20)
    assert dose_of("none") is None
