"""HyperSpy's own signals: completed here and by a service, loaded from what this program wrote."""

import numpy as np
import pytest

from stem_complete.data.about import About
from stem_complete.data.scans import RasterScan
from stem_complete.inference import (
    CompletedScan,
    Outputs,
    RemoteCompleter,
    load_completer,
    write_completion,
)


@pytest.fixture(scope="module")
def hs():
    """HyperSpy."""
    return pytest.importorskip("hyperspy.api", reason="HyperSpy is not installed")


@pytest.fixture(scope="module")
def signals(hs, example):
    """A scan and its dwell map, calibrated."""
    made = []
    for values, title in zip(example, ("gold", "dwell"), strict=True):
        signal = hs.signals.Signal2D(values)
        signal.metadata.General.title = title
        for axis, name in zip(signal.axes_manager.signal_axes, "xy", strict=True):
            axis.name, axis.units, axis.scale, axis.offset = name, "nm", 0.05, 1.5
        made.append(signal)
    return made


def check(found, title: str, expected: np.ndarray) -> None:
    assert type(found).__name__ == "Signal2D"
    assert found.metadata.General.title == title
    axes = found.axes_manager.signal_axes
    assert [(axis.units, axis.scale, axis.offset) for axis in axes] == [("nm", 0.05, 1.5)] * 2
    np.testing.assert_allclose(found.data, expected, atol=1e-4 * np.ptp(expected))


@pytest.mark.parametrize("where", ["here", "there"])
def test_a_signal_comes_back_with_its_axes(
    where, signals, example, model_folder, service, token_and_hash
):
    here = load_completer(model_folder)
    expected = here.complete(*example)
    if where == "here":
        image, error = here.complete(*signals)
    else:
        remote = RemoteCompleter(service, token_and_hash[0])
        image, error, _ = remote.complete(*signals, self_check=False)
    check(image, "gold", expected.image)
    check(error, "gold error", expected.error)


def test_a_lazy_signal_is_completed(signals, completer, example):
    image, _ = completer.complete(signals[0].as_lazy(), signals[1].as_lazy())
    check(image, "gold", completer.complete(*example).image)
    assert not image._lazy


def test_hyperspy_loads_a_completion_with_its_scale_and_completes_it_again(
    hs, tmp_path, completer, example
):
    scan = RasterScan(*example, pixel_size_nm=0.05, about=About("gold", "e-"))
    completion = completer.complete_scan(scan)
    done = CompletedScan(scan, completion, completer.card)
    write_completion(done, tmp_path / "gold_completed.hspy", Outputs(error_map=True))
    image, error = (hs.load(tmp_path / f"gold_{name}.hspy") for name in ("completed", "error"))
    np.testing.assert_array_equal(image.data, completion.image)
    np.testing.assert_array_equal(error.data, completion.error)
    assert image.axes_manager[0].units == "nm"
    assert image.axes_manager[0].scale == 0.05
    assert image.metadata.Signal.quantity == "e-"
    again, _ = completer.complete(image, example[1], error_map=False)
    assert again.axes_manager[0].scale == 0.05
