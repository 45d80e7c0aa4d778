"""Direct Electron's FreeScan: coordinates, information and MRC files that lie together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stem_complete.data.formats.scans import read_scan, sources_of
from stem_complete.data.scan_options import ScanOptions
from stem_complete.data.scans import PathScan
from stem_complete.errors import DataError
from stem_complete.inference.scan_files import plan_files

RNG = np.random.default_rng(0)
WIDTH, HEIGHT, NUM = 12, 29, 100
PIXELS = RNG.permutation(WIDTH * HEIGHT)[:NUM]
FRAMES = RNG.poisson(9, (NUM, 4, 5)).astype(np.uint16)
IMAGE = RNG.uniform(1, 2, (1, HEIGHT, WIDTH)).astype(np.float32)
INFO = f"""Scan - Controller                = DE-FreeScan
Scan - Dwell Time (microseconds) = 4704.6474
Scan - Points                    = {NUM}
Scan - ROI Enable                = Enable
Scan - ROI Size X                = {WIDTH}
Scan - ROI Size Y                = {HEIGHT}
Scan - Size X                    = 16
Scan - Size Y                    = 32
Specimen Pixel Size X (nanometers) = 0.04
"""


def write_mrc(path: Path, frames: np.ndarray[Any, Any]) -> None:
    """The MRC format in as few words as it needs: 256 numbers of 4 bytes, then the frames."""
    header = np.zeros(256, "<i4")
    mode = {"uint16": 6, "float32": 2}[frames.dtype.name]
    header[:4] = [*frames.shape[::-1], mode]
    header[7:10] = frames.shape[::-1]
    path.write_bytes(header.tobytes() + frames.tobytes())


@pytest.fixture
def coordinates(tmp_path: Path) -> Path:
    path = tmp_path / "Gold_1_scan_coordinates.csv"
    rows, columns = np.divmod(PIXELS, WIDTH)
    np.savetxt(path, np.stack([columns, rows], axis=1), fmt="%d", delimiter=",")
    (tmp_path / "Gold_1_info.txt").write_text(INFO)
    write_mrc(tmp_path / "Gold_1_movie.mrc", FRAMES)
    return path


def test_frames_are_summed_in_time_order(coordinates: Path) -> None:
    for path in (coordinates, coordinates.with_name("Gold_1_movie.mrc")):
        scan = read_scan(path)
        assert isinstance(scan, PathScan)
        assert scan.path.shape == (HEIGHT, WIDTH)
        assert scan.pixel_size_nm == 0.04
        np.testing.assert_array_equal(scan.path.positions[:, 0], PIXELS % WIDTH)
        np.testing.assert_array_equal(scan.path.dwell, 1)
        np.testing.assert_array_equal(scan.intensity, FRAMES.sum((1, 2)))


def test_detectors_are_chosen_by_name(coordinates: Path) -> None:
    write_mrc(coordinates.with_name("Gold_1_ext1_HAADF.mrc"), IMAGE)
    write_mrc(
        coordinates.with_name("Gold_1_ext2_BF.mrc"), IMAGE.reshape(-1)[:NUM].reshape(1, 1, -1)
    )
    write_mrc(coordinates.with_name("Gold_1_0_Virt_sum.mrc"), IMAGE[:, :5])
    with pytest.raises(DataError, match="found ext1_HAADF, ext2_BF, movie; choose one"):
        read_scan(coordinates)
    expected = IMAGE.reshape(-1)[PIXELS]
    for chosen in (
        read_scan(coordinates, options=ScanOptions(signal="ext1_HAADF")),
        read_scan(coordinates.with_name("Gold_1_ext1_HAADF.mrc")),
    ):
        np.testing.assert_array_equal(chosen.intensity, expected)
        assert f"Gold_1_0_Virt_sum.mrc has no value for each of the {NUM} points" in chosen.notes
    in_order = read_scan(coordinates, options=ScanOptions(signal="ext2_BF"))
    np.testing.assert_array_equal(in_order.intensity, IMAGE.reshape(-1)[:NUM])


def test_its_files_are_one_scan(coordinates: Path) -> None:
    write_mrc(coordinates.with_name("Other.mrc"), IMAGE)
    names = ["Gold_1_scan_coordinates.csv", "Gold_1_info.txt", "Gold_1_movie.mrc"]
    assert [path.name for path in sources_of(coordinates)] == names
    plan = plan_files([coordinates.parent], Path("out"))
    assert {each.scan.name for each in plan.files} == {"Other.mrc", names[0]}


def test_coordinates_without_a_detector_are_refused(coordinates: Path) -> None:
    coordinates.with_name("Gold_1_movie.mrc").unlink()
    with pytest.raises(DataError, match=r"copy Gold_1_movie\.mrc"):
        read_scan(coordinates)
