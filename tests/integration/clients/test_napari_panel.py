"""The panel that completes layers: real Qt without a screen, real threads, a real service."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest
from waiting import wait_until

from stem_complete.data.scans import RasterScan
from stem_complete.inference import Completer
from stem_complete.inference.sources import load_model


@pytest.fixture(scope="session")
def process_events() -> Callable[[], None]:
    """Has Qt do what waits."""
    # A system may lack libraries that Qt needs, such as libEGL.
    widgets = pytest.importorskip("qtpy.QtWidgets", reason="no Qt that works", exc_type=Exception)
    QApplication = widgets.QApplication  # noqa: N806
    application = QApplication.instance() or QApplication([])
    return application.processEvents


@pytest.fixture
def panel(viewer, process_events, model_folder):
    from stem_complete.napari.panel import CompletionPanel

    panel = CompletionPanel(viewer)
    panel.model.value = str(model_folder)
    yield panel
    wait_until(lambda: process_events() or not panel.is_busy, "the panel's thread")
    panel.native.close()


@pytest.fixture
def complete(panel, process_events):
    """Presses the button, and waits until it can be pressed again; returns what the panel tells."""

    def press() -> str:
        panel.begin.native.click()
        wait_until(lambda: process_events() or not panel.is_busy, "the completion")
        assert panel.begin.enabled
        assert not panel.cancel.enabled
        return panel.told.value

    return press


def add(viewer, example, **options):
    """A scan and its dwell map as layers, with a scale and a place."""
    intensity, dwell = example
    place = {"scale": (0.05, 0.05), "units": "nm", "translate": (3, 4), **options}
    return (
        viewer.add_image(intensity, name="gold", **place),
        viewer.add_image(dwell, name="times", **place),
    )


def same(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.ptp(expected))


@pytest.mark.parametrize("where", ["on this computer", "by a service"])
def test_a_scan_is_completed_in_its_place(
    viewer, panel, complete, completer, example, service, token_and_hash, where
):
    scan, dwell = add(viewer, example)
    panel.scan.value, panel.dwell.value = scan, dwell
    panel.where.value = where
    panel.address.value, panel.token.value = service, token_and_hash[0]
    told = complete()
    check = completer.self_check(*example)
    expected = completer.complete(*example, check=check)
    image, error = viewer.layers["gold completed"], viewer.layers["gold error"]
    same(image.data, expected.image)
    same(error.data, expected.error)
    for layer in (image, error):
        np.testing.assert_allclose(layer.scale, 0.05)
        np.testing.assert_allclose(layer.translate, (3, 4))
        assert {str(unit) for unit in layer.units} == {"nanometer"}
    assert (image.visible, error.visible) == (True, False)
    assert error.colormap.name == "inferno"
    known = image.metadata["stem_complete"]
    assert known["model"] == completer.card.name
    assert known["self_check"][0]["error"] == pytest.approx(check.error, rel=1e-3)
    *_, model, note = told.splitlines()
    assert model == f"model: tiny, {known['model_sha256'][:12]}".rstrip(", ")
    assert note == known["self_check"][0]["note"]
    assert panel.scan.value is scan  # which is not a completion


def test_a_dwell_map_that_was_read_with_its_scan_is_found(viewer, panel, complete, tmp_path):
    path = tmp_path / "scan.npz"
    rng = np.random.default_rng(0)
    dwell = np.where(rng.random((64, 64)) < 0.2, 2.0, 0.0)  # in full pixel dwells, not counts
    np.savez(path, intensity=rng.normal(size=(64, 64)), dwell=dwell / 2)
    viewer.add_image(dwell, name="another")
    viewer.open(str(path), plugin="stem-complete")
    assert panel.scan.value is viewer.layers["scan"]
    assert panel.dwell.value is viewer.layers["scan dwell"]
    panel.self_check.value = panel.error_map.value = False
    complete()
    assert "scan error" not in viewer.layers
    assert viewer.layers["scan completed"].metadata["stem_complete"]["of"] == "scan"
    viewer.layers.remove("scan dwell")
    assert panel.dwell.value is None
    viewer.layers.selection.active = viewer.layers["another"]  # to look at it
    assert panel.scan.value is viewer.layers["scan"]
    viewer.layers.remove("scan")
    assert panel.scan.value is None


def test_units_of_dwell_times_and_fills_can_be_told(viewer, panel, complete, completer, example):
    intensity, dwell = example
    filled = np.where(np.isnan(intensity), 120, intensity)
    panel.scan.value = viewer.add_image(filled, name="gold")
    panel.dwell.value = viewer.add_image(dwell * 10, name="microseconds")
    panel.self_check.value = False
    panel.full_dwell.value, panel.unmeasured.value = "10", "120"
    complete()
    expected = completer.complete_scan(RasterScan(*example))
    same(viewer.layers["gold completed"].data, expected.image)
    panel.full_dwell.value = "ten"
    assert complete() == "full dwell: expected a number, found ten; correct it, or leave it empty"


def test_a_stack_is_completed_frame_by_frame(viewer, panel, complete, completer, example):
    intensity, dwell = example
    panel.scan.value = viewer.add_image(
        np.stack([intensity, 2 * intensity]), name="frames", scale=(1, 0.05, 0.05)
    )
    panel.dwell.value = viewer.add_image(dwell, name="times")
    panel.self_check.value = panel.error_map.value = False
    complete()
    found = viewer.layers["frames completed"]
    np.testing.assert_allclose(found.scale, (1, 0.05, 0.05))
    for frame, image in zip((1, 2), found.data, strict=True):
        expected = completer.complete_scan(RasterScan(frame * intensity, dwell))
        same(image, expected.image)


@pytest.fixture
def held(monkeypatch):
    """Holds each completion until this is set, and counts them."""
    go, begun = threading.Event(), []

    class Held(Completer):
        def complete_scans(self, scans, **options):
            begun.append(len(scans))
            assert go.wait(600)
            return super().complete_scans(scans, **options)

    monkeypatch.setattr(
        "stem_complete.napari.completing.load_completer",
        lambda name: Held(load_model(name), "cpu"),
    )
    go.begun = begun
    yield go
    go.set()


def test_what_is_cancelled_ends_after_the_step_under_way(
    viewer, panel, complete, process_events, example, held
):
    stack = np.stack([example[0]] * 3)
    panel.scan.value = viewer.add_image(stack, name="frames")
    panel.self_check.value = False
    panel.begin.native.click()
    wait_until(lambda: process_events() or held.begun, "the first frame")
    wait_until(lambda: process_events() or panel.told.value == "completion of 1 of 3", "its name")
    assert panel.progress.max == 3
    assert not panel.begin.enabled
    panel.cancel.native.click()
    held.set()
    wait_until(lambda: process_events() or not panel.is_busy, "the end")
    assert panel.told.value == "cancelled"
    assert held.begun == [1]
    assert [layer.name for layer in viewer.layers] == ["frames"]
    assert panel.begin.enabled


def test_a_panel_that_is_closed_for_good_hears_and_adds_nothing(
    viewer, process_events, model_folder, example, held
):
    from qtpy.QtCore import QEvent
    from qtpy.QtWidgets import QApplication

    from stem_complete.napari.panel import CompletionPanel

    panel = CompletionPanel(viewer)
    panel.scan.value = viewer.add_image(example[0], name="gold")
    panel.self_check.value = False
    panel.begin.native.click()
    wait_until(lambda: process_events() or held.begun, "the completion")
    panel.native.deleteLater()
    QApplication.instance().sendPostedEvents(None, QEvent.Type.DeferredDelete)
    held.set()
    viewer.add_image(np.ones((40, 40)), name="later")
    wait_until(lambda: process_events() or not any_worker(), "the thread")
    process_events()
    assert {layer.name for layer in viewer.layers} == {"gold", "later"}


def any_worker() -> bool:
    from superqt.utils import WorkerBase

    return bool(WorkerBase._worker_set)


def test_what_goes_wrong_is_told_in_words(viewer, panel, complete, example, service, tmp_path):
    assert complete().startswith("scan: expected a layer with a partial scan, found none; open")
    panel.scan.value = viewer.add_image(np.zeros((64, 64)), name="dark")
    assert "dark: expected at least one measured pixel, found 0 in all" in complete()
    half = np.nan_to_num(example[0])
    half[:, :48] = 0
    panel.scan.value = viewer.add_image(half, name="half")
    assert complete().endswith("give dwell, or unmeasured 0 if the probe was never there")
    panel.scan.value = viewer.add_image(example[0], name="gold")
    panel.model.value = str(tmp_path / "nowhere")
    assert "nowhere: expected" in complete()
    panel.where.value = "by a service"
    panel.address.value, panel.token.value = service, "wrong"
    assert "Bearer TOKEN, found another token" in complete()
    panel.address.value = "nowhere"
    assert "expected a completion service that answers" in complete()
    colours = viewer.add_image(np.zeros((40, 40, 3)), rgb=True, name="colours")
    panel.scan.value = colours
    assert "colours: expected an image [h, w] or a stack" in complete()
    assert [layer.name for layer in viewer.layers if "completed" in layer.name] == []


def test_fields_are_those_of_the_place(panel):
    panel.native.show()
    assert (panel.model.visible, panel.address.visible) == (True, False)
    panel.where.value = "by a service"
    assert (panel.model.visible, panel.address.visible) == (False, True)
