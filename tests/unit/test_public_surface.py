"""The names that users rely on."""

import torch

import stem_complete
from stem_complete import ALRC, load_completer, scan


def test_public_names():
    assert set(dir(stem_complete)) >= {"ALRC", "Completer", "Completion", "load_completer", "scan"}
    assert callable(load_completer)
    path = scan.archimedean((64, 64), coverage="1/20")
    assert path.dwell_map().shape == (64, 64)
    assert abs(float(path.dwell_map().mean()) - 0.05) < 1e-5
    alrc = ALRC(num_stddev=3.0, decay=(0.999, 0.999), moments="raw", accumulate=True)
    alrc(torch.ones(3))
    alrc.commit()
    assert alrc.mu1 < 25
    assert alrc.mu2 < 900
    assert alrc.threshold.ndim == 0


def test_unknown_names_are_attribute_errors():
    assert not hasattr(stem_complete, "nonsense")
