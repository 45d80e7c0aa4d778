"""Files of scan paths read back to the same path."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from stem_complete.data.formats.path_files import PathNotes, write_path
from stem_complete.errors import ConfigError
from stem_complete.scan import ScanPath, archimedean, random_pixels

NOTES = PathNotes("archimedean", 0, full_dwell_us=10.0, pixel_size_nm=0.05)


@pytest.fixture(scope="module")
def path() -> ScanPath:
    return archimedean((48, 40), "1/8")


def comments(file: Path) -> dict[str, str]:
    lines = [line[2:] for line in file.read_text().splitlines() if line.startswith("# ")]
    return dict(line.split(": ", 1) for line in lines)


def test_csv(path: ScanPath, tmp_path: Path) -> None:
    write_path(tmp_path / "path.csv", path, NOTES)
    said = comments(tmp_path / "path.csv")
    assert said["shape"] == "48 40"
    assert float(said["coverage"]) == pytest.approx(1 / 8)
    assert (said["geometry"], said["seed"]) == ("archimedean", "0")
    assert (said["full_dwell_us"], said["pixel_size_nm"]) == ("10.0", "0.05")
    table = np.genfromtxt(tmp_path / "path.csv", delimiter=",", names=True, skip_header=len(said))
    assert table.dtype.names == ("x", "y", "dwell", "dwell_us")
    read = np.stack([table["x"], table["y"]], axis=1)
    np.testing.assert_allclose(read, path.positions, atol=5.1e-5)
    np.testing.assert_array_equal(table["dwell"].astype(np.float32), path.dwell)
    np.testing.assert_allclose(table["dwell_us"], 10 * path.dwell.double(), rtol=1e-8)
    again = ScanPath(read, table["dwell"], (48, 40))  # type: ignore[arg-type]
    np.testing.assert_allclose(again.dwell_map(), path.dwell_map(), atol=1e-4)


def test_csv_tells_only_what_is_known(path: ScanPath, tmp_path: Path) -> None:
    write_path(tmp_path / "path.CSV", path, PathNotes("archimedean"))
    assert not {"full_dwell_us", "pixel_size_nm"} & set(comments(tmp_path / "path.CSV"))
    assert "\nx,y,dwell\n" in (tmp_path / "path.CSV").read_text()


def test_npz(path: ScanPath, tmp_path: Path) -> None:
    write_path(tmp_path / "path.npz", path, NOTES)
    with np.load(tmp_path / "path.npz") as read:
        np.testing.assert_array_equal(read["positions"], path.positions)
        np.testing.assert_array_equal(read["dwell"], path.dwell)
        assert tuple(read["shape"]) == path.shape
        assert str(read["geometry"]) == "archimedean"
        assert (read["full_dwell_us"], read["pixel_size_nm"]) == (10, 0.05)


def test_json_has_the_fields_of_scanspecs_points(path: ScanPath, tmp_path: Path) -> None:
    write_path(tmp_path / "path.json", path, NOTES)
    read = json.loads((tmp_path / "path.json").read_text())
    assert read["axes"] == list(read["midpoints"]) == ["x", "y"]
    assert read["total_frames"] == read["returned_frames"] == len(path.positions)
    assert read["shape"] == [48, 40]
    lower, middle, upper = (
        np.transpose([read[name]["x"], read[name]["y"]]) for name in ("lower", "midpoints", "upper")
    )
    np.testing.assert_allclose(middle, path.positions, atol=5.1e-5)
    np.testing.assert_array_equal(np.float32(read["dwell"]), path.dwell)
    np.testing.assert_allclose(read["duration"], 1e-5 * path.dwell.double())
    # A frame begins where the one before ended, unless there is a gap: at the image's border.
    gap = np.array(read["gap"])
    assert gap[0]
    assert 1 < gap.sum() < 40
    continued = ~gap[1:]
    np.testing.assert_array_equal(lower[1:][continued], upper[:-1][continued])
    jumps = np.linalg.norm(np.diff(middle, axis=0), axis=1)
    assert jumps[continued].max() <= 1.5 < jumps[~continued].min()


def test_single_pixels_are_frames_of_their_own(tmp_path: Path) -> None:
    path = random_pixels((32, 32), "1/100")
    write_path(tmp_path / "path.json", path, PathNotes("random", 3))
    read = json.loads((tmp_path / "path.json").read_text())
    assert all(read["gap"])
    assert read["lower"] == read["midpoints"] == read["upper"]
    assert "duration" not in read


@pytest.mark.parametrize("name", ["path.txt", "path"])
def test_other_suffixes_are_refused(path: ScanPath, tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"expected a path file ending in \.csv, \.npz, \.json"):
        write_path(tmp_path / name, path, NOTES)
    assert not list(tmp_path.iterdir())
