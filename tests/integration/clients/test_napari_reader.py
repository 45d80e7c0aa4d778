"""Files as napari's layers: what this program writes, and the partial scans that it reads."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import pytest
import scan_bodies as bodies
import tifffile

from stem_complete.data.about import About
from stem_complete.data.formats.scans import PATHS, read_scan
from stem_complete.data.scans import RasterScan
from stem_complete.errors import DataError
from stem_complete.inference import (
    CompletedScan,
    Completion,
    Outputs,
    SelfCheck,
    write_completion,
)
from stem_complete.serving.batch import complete_files

ROOT = Path(__file__).parents[3]
BOTH = Outputs(error_map=True, self_check=True)


@pytest.fixture(scope="module")
def done(completer, example) -> CompletedScan:
    scan = RasterScan(*example, pixel_size_nm=0.05, about=About("gold", "e-"), where="gold.tif")
    check = completer.self_check(scan)
    return CompletedScan(scan, completer.complete_scan(scan, check=check), completer.card, check)


def opened(viewer, path):
    """Layers by their names."""
    return {layer.name: layer for layer in viewer.open(str(path), plugin="stem-complete")}


def check_place(layer, side: float, unit: str) -> None:
    np.testing.assert_allclose(layer.scale[-2:], side, rtol=1e-6)
    assert [str(each) for each in layer.units[-2:]] == [unit] * 2


def test_the_plugin_is_whole(plugin):
    entries = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    package, _, name = entries["napari.manifest"]["stem-complete"].partition(":")
    assert ROOT.joinpath(*package.split("."), name) == (
        ROOT / "stem_complete" / "napari" / "napari.yaml"
    )
    plugin.validate_imports()
    (reader,) = plugin.contributions.readers
    assert {pattern[1:] for pattern in reader.filename_patterns} == set(PATHS)


@pytest.mark.parametrize("suffix", [".tif", ".npy", ".hspy", ".ome.zarr"])
def test_a_completion_opens_with_its_error_map_and_self_check(viewer, tmp_path, done, suffix):
    path = tmp_path / f"gold_completed{suffix}"
    write_completion(done, path, BOTH)
    layers = opened(viewer, path)
    assert list(layers) == ["gold error", "gold completed"]
    image, error = layers["gold completed"], layers["gold error"]
    np.testing.assert_array_equal(image.data, done.completion.image)
    np.testing.assert_array_equal(error.data, done.completion.error)
    check_place(image, 0.05, "nanometer")
    check_place(error, 0.05, "nanometer")
    assert (image.colormap.name, error.colormap.name) == ("gray", "inferno")
    assert (image.visible, error.visible) == (True, False)
    low, high = image.contrast_limits
    assert done.completion.image.min() < low < high < done.completion.image.max()
    assert error.contrast_limits[0] == 0
    known = image.metadata["stem_complete"]
    assert known["shows"] == "completion"
    assert known["title"] == "gold"
    assert known["self_check"][0]["note"] == done.check.note


def test_a_stack_opens_as_a_stack_and_a_large_image_as_a_pyramid(viewer, tmp_path, done):
    path = tmp_path / "gold_completed.ome.zarr"
    write_completion([done, done], path, BOTH)
    image = opened(viewer, path)["gold completed"]
    assert image.data.shape == (2, 64, 96)
    assert list(image.axis_labels) == ["frame", "y", "x"]
    np.testing.assert_array_equal(image.data[1], done.completion.image)

    large = np.arange(600 * 700, dtype=np.float32).reshape(600, 700)
    scan = RasterScan(large, where="large.tif")
    path = tmp_path / "large_completed.ome.zarr"
    write_completion(CompletedScan(scan, Completion(large), done.model), path)
    image = opened(viewer, path)["large completed"]
    assert image.multiscale
    assert [level.shape for level in image.data] == [(600, 700), (300, 350)]
    np.testing.assert_array_equal(image.data[0], large)
    check_place(image, 1, "pixel")


@pytest.mark.parametrize("suffix", [".tif", ".npy"])
def test_an_error_map_opens_alone_and_not_beside_another_image(viewer, tmp_path, done, suffix):
    path = tmp_path / f"gold_completed{suffix}"
    write_completion(done, path, BOTH)
    (error,) = opened(viewer, tmp_path / f"gold_error{suffix}").values()
    assert error.metadata["stem_complete"]["shows"] == "expected error"
    assert error.colormap.name == "inferno"
    if suffix == ".tif":  # an NPY does not say what it is of
        write_completion(done, path, made_from={"scan": "another"})
        assert list(opened(viewer, path)) == ["gold completed"]


def test_completions_as_arrays_open_as_stacks(viewer, tmp_path, completer, example):
    intensity, dwell = example
    for name in "ab":
        np.savez(tmp_path / f"{name}.npz", intensity=intensity, dwell=dwell, pixel_size_nm=0.05)
    output = tmp_path / "completed.zarr"
    complete_files([tmp_path / "a.npz", tmp_path / "b.npz"], completer, output, outputs=BOTH)
    layers = opened(viewer, output)
    assert list(layers) == ["completed 64x96 error", "completed 64x96"]
    image = layers["completed 64x96"]
    expected = completer.complete(*example, check=completer.self_check(*example))
    np.testing.assert_allclose(image.data[1], expected.image, atol=1e-4 * np.ptp(expected.image))
    rows = image.metadata["stem_complete"]["rows"]
    assert [str(scan).rpartition("/")[2] for scan in rows["scan"][:]] == ["a.npz", "b.npz"]
    assert rows["self_check"].shape == (2, len(SelfCheck._fields))


@pytest.mark.parametrize("suffix", ["npz", "csv", "parquet"])
def test_a_partial_scan_opens_with_its_dwell_map(viewer, tmp_path, example, suffix):
    path = tmp_path / f"scan.{suffix}"
    path.write_bytes(bodies.every(*example)[suffix][1])
    layers = opened(viewer, path)
    assert list(layers) == ["scan dwell", "scan"]
    scan, dwell = layers["scan"], layers["scan dwell"]
    expected = read_scan(path).raster()
    np.testing.assert_array_equal(dwell.data, expected.dwell)
    np.testing.assert_allclose(scan.data, expected.intensity, rtol=1e-6)
    assert (scan.visible, dwell.visible) == (True, False)
    low, high = scan.contrast_limits
    assert expected.measured_range[0] <= low < high <= expected.measured_range[1]


def test_what_files_say_of_a_scan_is_in_its_layer(viewer, tmp_path, example):
    intensity, _ = example
    filled = np.where(np.isnan(intensity), -1, intensity).astype(np.float32)
    path = tmp_path / "scan.tif"
    tifffile.imwrite(path, filled, imagej=True, resolution=(20, 20), metadata={"unit": "nm"})
    scan = opened(viewer, path)["scan"]
    check_place(scan, 0.05, "nanometer")
    (note,) = scan.metadata["stem_complete"]["notes"]
    assert "exactly -1, taken for not measured" in note

    table = "# pixel_size_nm: 0.1\nx [nm],y [nm],intensity\n" + "".join(
        f"{0.1 * x:.2f},{0.1 * y:.2f},{x + y}\n" for y in range(0, 40, 4) for x in range(50)
    )
    (tmp_path / "table.csv").write_text(table)
    scan = opened(viewer, tmp_path / "table.csv")["table"]
    assert scan.data.shape == (37, 50)
    check_place(scan, 0.1, "nanometer")


def test_several_scans_of_a_file_are_a_stack(viewer, tmp_path):
    path = tmp_path / "frames.csv"
    rows = [f"{x},{y},0,{x + y}" for y in range(40) for x in range(48)]
    rows += [f"{x},{y},1,{x - y}" for y in range(40) for x in range(48)]
    path.write_text("x,y,scan,intensity\n" + "\n".join(rows))
    scan = opened(viewer, path)["frames"]
    assert scan.data.shape == (2, 40, 48)
    assert scan.metadata["stem_complete"]["coverage"] == pytest.approx(1)


def test_what_cannot_be_read_is_told_and_what_is_none_of_ours_is_left(viewer, tmp_path):
    from stem_complete.napari.reader import get_reader

    (tmp_path / "broken.tif").write_bytes(b"II*\0 no more")
    with pytest.raises(DataError, match=r"broken\.tif: expected"):
        viewer.open(str(tmp_path / "broken.tif"), plugin="stem-complete")
    for name in ("notes.txt", "gone.tif", "s3://bucket/scan.tif"):
        assert get_reader(str(tmp_path / name) if "://" not in name else name) is None
    assert get_reader(str(tmp_path)) is None


@pytest.mark.parametrize("number", [1, 2, 3])
def test_examples_are_real_scans_with_their_truth(viewer, number):
    names = [f"spiral {number}{part}" for part in (" truth", " dwell", "")]
    layers = dict(zip(names, viewer.open_sample("stem-complete", f"spiral_{number}"), strict=True))
    assert [layer.name for layer in layers.values()] == names
    truth, dwell, scan = (layer.data for layer in layers.values())
    visited = dwell > 0
    assert 1 / 25 < dwell.mean() < 1 / 15
    np.testing.assert_array_equal(visited, ~np.isnan(scan))
    assert np.corrcoef(truth[dwell > 0.4], scan[dwell > 0.4])[0, 1] > 0.5
