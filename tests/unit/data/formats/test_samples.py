"""Samples along a path, in every layout: the same scan as its positions, dwell and intensities."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet
from strategies import seeds

from stem_complete.data.formats.micrographs import read_micrographs
from stem_complete.data.formats.samples import Samples, path_scans
from stem_complete.data.formats.scans import read_samples, read_scan, read_scans
from stem_complete.data.scan_options import AS_STORED, ScanOptions
from stem_complete.data.scans import PathScan
from stem_complete.errors import DataError
from stem_complete.scan import archimedean

PATH = archimedean((40, 36), "1/10")
X, Y = PATH.positions.numpy().T
DWELL = PATH.dwell.numpy().astype(np.float64)
NUM = len(DWELL)
INTENSITY = 100 + np.random.default_rng(0).normal(size=NUM).cumsum().round(6)
SHAPE_LINE = "# shape: 40 36\n# pixel centres are whole numbers\n"


def table(header: str, *columns: Any, comments: str = "", delimiter: str = ",") -> str:
    rows = (delimiter.join(map(repr, map(float, row))) for row in zip(*columns, strict=True))
    return comments + "\n".join([header, *rows] if header else rows) + "\n"


def write(path: Path, content: str) -> Path:
    path.write_text(content)
    return path


def is_the_scan(scan: Any, dwell: Any = DWELL, rounding: float = 1e-6) -> None:
    assert isinstance(scan, PathScan)
    assert scan.path.shape == (40, 36)
    np.testing.assert_allclose(scan.path.positions, PATH.positions, atol=rounding)
    np.testing.assert_allclose(scan.path.dwell, dwell, rtol=1e-5)
    np.testing.assert_allclose(scan.intensity, INTENSITY, atol=1e-6)


NM = "# pixel_size_nm: 0.05\n" + SHAPE_LINE
TEXTS: dict[str, str] = {
    "of our own": table("x,y,dwell,intensity", X, Y, DWELL, INTENSITY, comments=SHAPE_LINE),
    "suffixes": table("x_px,y_px,dwell,HAADF", X, Y, DWELL, INTENSITY, comments=SHAPE_LINE),
    "units": table(
        "x [nm],y [nm],dwell [us],I (counts)",
        *(X * 0.05, Y * 0.05, DWELL * 8, INTENSITY),
        comments=NM + "# full_dwell_us: 8\n",
    ),
    "other lengths": table(
        "x/A,y/A,dwell,t_us,i",
        *(X * 0.5, Y * 0.5, DWELL, np.arange(NUM), INTENSITY),
        comments=NM,
    ),
    "semicolons": table(
        "x;y;dwell;intensity", X, Y, DWELL, INTENSITY, delimiter=";", comments=SHAPE_LINE
    ).replace(".", ","),
    "tabs": table(
        "X\tY\tDwell\tIntensity", X, Y, DWELL, INTENSITY, delimiter="\t", comments=SHAPE_LINE
    ),
    "blanks and a mark": "\ufeff"
    + table("x y dwell intensity", X, Y, DWELL, INTENSITY, delimiter=" ", comments=SHAPE_LINE),
    "a number and a word more": table(
        "n,x,y,dwell,intensity", range(NUM), X, Y, DWELL, INTENSITY
    ).replace("\n", ",ok\n")
    + SHAPE_LINE,
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_tables(tmp_path: Path, text: str) -> None:
    scan = read_scan(write(tmp_path / "scan.csv", text))
    is_the_scan(scan)
    assert scan.notes == ()
    expected = 0.05 if "pixel_size_nm" in text else None
    assert scan.raster().pixel_size_nm == expected
    np.testing.assert_allclose(scan.raster().dwell, PATH.dwell_map(), atol=1e-6)


def _npz(path: Path) -> None:
    np.savez(path, x=X, y=Y, dwell=DWELL, intensity=INTENSITY, shape=[40, 36], t=np.arange(NUM))


def _npz_of_positions(path: Path) -> None:
    np.savez(path, positions=PATH.positions, dwell=DWELL, haadf=INTENSITY, shape="40 36")


def _parquet(path: Path) -> None:
    columns = {"x": X, "y": Y, "dwell": DWELL, "intensity": INTENSITY, "note": ["a"] * NUM}
    parquet.write_table(pa.table(columns).replace_schema_metadata({"shape": "40 36"}), path)


def _nxdata(path: Path) -> None:
    with h5py.File(path, "w") as file:
        data = file.create_group("entry/data")
        data.attrs.update({"signal": "haadf", "axes": ["x", "y"], "shape": [40, 36]})
        data.attrs.update({"pixel_size_nm": 0.05, "full_dwell_us": 8.0})
        for name, values, unit in (
            ("x", X * 0.05, "nm"),
            ("y", Y * 0.05, "nm"),
            ("dwell", DWELL * 8, "us"),
            ("haadf", INTENSITY, "counts"),
            ("bf", -INTENSITY, "counts"),
        ):
            data[name] = values
            data[name].attrs["units"] = unit


def _positions(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["positions"], file["dwell"], file["intensity"] = PATH.positions, DWELL, INTENSITY
        file.attrs["shape"] = (40, 36)


ARRAYS: dict[str, Callable[[Path], None]] = {
    "a.npz": _npz,
    "b.npz": _npz_of_positions,
    "a.parquet": _parquet,
    "a.h5": _nxdata,
    "b.hdf5": _positions,
}


@pytest.mark.parametrize("name", ARRAYS)
def test_files_of_arrays(tmp_path: Path, name: str) -> None:
    ARRAYS[name](tmp_path / name)
    is_the_scan(read_scan(tmp_path / name))


def test_frames_are_summed(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).poisson(3, (30, 4, 5)).astype(np.uint8)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["scan/positions"] = np.stack([np.arange(30) % 6, np.arange(30) // 6], axis=1)
        file["scan/frames"] = frames
    scan = read_scan(tmp_path / "a.h5")
    np.testing.assert_array_equal(scan.intensity, frames.sum((1, 2)))
    assert scan.notes == (
        "the intensity of a sample is the sum of its frame",
        "the image is as large as the positions reach, 5 x 6 px (h x w)",
        "no dwell times: each sample counts as 1 full pixel dwells",
    )


def test_events_are_counted(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        group = file.create_group("electron_events")
        frames = group.create_dataset("frames", (4,), dtype=h5py.vlen_dtype(np.uint32))
        for number in range(4):
            frames[number] = np.arange(3 + number)
        group["scan_positions"] = [7, 0, 1, 11]
        group["scan_positions"].attrs.update({"Nx": 4, "Ny": 3})
    scan = read_scan(tmp_path / "a.h5")
    assert isinstance(scan, PathScan)
    assert scan.path.shape == (3, 4)
    assert scan.path.positions.tolist() == [[3, 1], [0, 0], [1, 0], [3, 2]]
    assert scan.intensity.tolist() == [3, 4, 5, 6]


class TestPathFiles:
    """Intensities alone, whose path is another file's."""

    @pytest.fixture
    def along(self, tmp_path: Path) -> Path:
        text = table("x,y,dwell", X, Y, DWELL, comments=SHAPE_LINE)
        return write(tmp_path / "path.csv", text)

    def test_a_list(self, tmp_path: Path, along: Path) -> None:
        np.save(tmp_path / "a.npy", INTENSITY)
        is_the_scan(read_scan(tmp_path / "a.npy", along=along))
        write(tmp_path / "a.csv", table("intensity", INTENSITY))
        is_the_scan(read_scan(tmp_path / "a.csv", along=along))
        np.savez(tmp_path / "a.npz", intensity=INTENSITY, gain=2.0)
        is_the_scan(read_scan(tmp_path / "a.npz", along=along))

    def test_a_stack(self, tmp_path: Path, along: Path) -> None:
        np.save(tmp_path / "a.npy", np.stack([INTENSITY, -INTENSITY]))
        first, second = read_scans(tmp_path / "a.npy", along=along)
        is_the_scan(first)
        np.testing.assert_array_equal(second.intensity, -first.intensity)
        with pytest.raises(DataError, match="found 2 scans"):
            read_scan(tmp_path / "a.npy", along=along)

    def test_json(self, tmp_path: Path) -> None:
        np.save(tmp_path / "a.npy", INTENSITY)
        lists = {"x": X.tolist(), "y": Y.tolist()}
        plain = {"shape": [40, 36], **lists, "dwell": DWELL.tolist()}
        path = write(tmp_path / "path.json", json.dumps(plain))
        is_the_scan(read_scan(tmp_path / "a.npy", along=path))
        spec = {
            "axes": ["x", "y"],
            "gap": [True, *[False] * (NUM - 1)],
            "midpoints": lists,
            "lower": lists,
            "upper": lists,
            "duration": (DWELL * 1e-5).tolist(),
        }
        path = write(tmp_path / "spec.json", json.dumps(spec))
        options = ScanOptions(shape=(40, 36), full_dwell=1e-5)
        is_the_scan(read_scan(tmp_path / "a.npy", options=options, along=path))

    def test_open_beam_interface(self, tmp_path: Path) -> None:
        x, y = (X * 32).round(), (Y * 32).round()
        ticks = (DWELL * 8e6).round()
        points = write(tmp_path / "points.csv", table("", x, y, ticks))
        answer = write(tmp_path / "points_data.csv", table("", x, y, INTENSITY))
        options = ScanOptions(shape=(40, 36), step=32, full_dwell=8e6)
        is_the_scan(read_scan(answer, options=options, along=points), rounding=0.02)
        alone = read_scan(answer, options=replace(options, full_dwell=None))
        assert alone.notes[0] == "no dwell times: each sample counts as 0.252 full pixel dwells"
        ticked = read_scan(answer, options=replace(options, full_dwell=None), along=points)
        assert "dwell times are counts" in ticked.notes[0]
        assert ticked.raster().coverage == pytest.approx(0.1, rel=0.02)

    def test_arrays(self, tmp_path: Path) -> None:
        arrays = {"positions": PATH.positions, "dwell": DWELL, "shape": [40, 36], "seed": 0}
        np.savez(tmp_path / "path.npz", **arrays)
        write(tmp_path / "a.csv", table("n,x,y,HAADF", range(NUM), X / 7, Y / 7, INTENSITY))
        is_the_scan(read_scan(tmp_path / "a.csv", along=tmp_path / "path.npz"))

    def test_of_another_length(self, tmp_path: Path, along: Path) -> None:
        np.save(tmp_path / "a.npy", INTENSITY[:-1])
        with pytest.raises(DataError, match=f"each of {NUM} positions, found shape"):
            read_scan(tmp_path / "a.npy", along=along)


def test_detectors_are_chosen_by_name(tmp_path: Path) -> None:
    text = table("x,y,HAADF,BF [V]", X, Y, INTENSITY, -INTENSITY, comments=SHAPE_LINE)
    path = write(tmp_path / "a.csv", text)
    with pytest.raises(DataError, match=r"found HAADF, BF \[V\]; choose one with --signal"):
        read_scan(path)
    bright = read_scan(path, options=ScanOptions(signal="bf"))
    assert isinstance(bright, PathScan)
    np.testing.assert_array_equal(bright.intensity, -INTENSITY)
    assert bright.unit == "V"
    with pytest.raises(DataError, match="expected a detector DF"):
        read_scan(path, options=ScanOptions(signal="DF"))


def test_scans_of_one_table_are_told_apart_by_their_number(tmp_path: Path) -> None:
    numbers = np.repeat([3, 1], [NUM, NUM])
    columns = (np.tile(a, 2) for a in (X, Y, DWELL))
    text = table(
        "frame,x,y,dwell,intensity",
        *(numbers, *columns, np.r_[INTENSITY, -INTENSITY]),
        comments=SHAPE_LINE,
    )
    first, second = read_scans(write(tmp_path / "a.csv", text))
    is_the_scan(second)
    np.testing.assert_array_equal(first.intensity, -second.intensity)


def test_samples_are_ordered_by_time(tmp_path: Path) -> None:
    columns = [a[::-1] for a in (X, Y, DWELL, np.arange(NUM) * 2.0, INTENSITY)]
    text = table("x,y,dwell,t [us],intensity", *columns, comments=SHAPE_LINE)
    scan = read_scan(write(tmp_path / "a.csv", text))
    is_the_scan(scan)
    assert isinstance(scan, PathScan)
    assert scan.times_s is not None
    np.testing.assert_allclose(scan.times_s, np.arange(NUM) * 2e-6)


def test_samples_without_intensity_or_image_are_counted(tmp_path: Path) -> None:
    intensity = np.where(np.arange(NUM) % 50 == 7, np.nan, INTENSITY)
    x = np.where(np.arange(NUM) % 100 == 5, 99, X)
    text = table("x,y,dwell,intensity", x, Y, DWELL, intensity, comments=SHAPE_LINE)
    scan = read_scan(write(tmp_path / "a.csv", text.replace(",nan", ",")))
    num_dead, num_outside = (int(n) for n in (np.isnan(intensity).sum(), (x == 99).sum()))
    assert scan.notes == (
        f"left out: {num_dead} samples without intensity",
        f"left out: {num_outside} of {NUM - num_dead} samples, outside the image",
    )


def test_repeats_count_by_their_dwell(tmp_path: Path) -> None:
    x, y = np.tile([10.0, 11, 12], 2), np.full(6, 9.0)
    intensity, dwell = [1, 2, 3, 4, 5, 6], [0.75] * 3 + [0.25] * 3
    text = table("x,y,dwell,intensity", x, y, dwell, intensity, comments=SHAPE_LINE)
    scan = read_scan(write(tmp_path / "a.csv", text)).raster()
    assert scan.intensity[9, 9] == pytest.approx(0.75 * 1 + 0.25 * 4)
    # Unknown dwells of a scan that went over every pixel twice are half a full dwell.
    y, x = np.divmod(np.tile(np.arange(40 * 36), 2), 36)
    text = table("x,y,i", x, y, np.arange(2 * 40 * 36), comments=SHAPE_LINE)
    assert read_scan(write(tmp_path / "b.csv", text)).raster().coverage == pytest.approx(1)


ELSEWHERE: dict[str, tuple[np.ndarray, np.ndarray, ScanOptions]] = {
    "centred": (X - 18, Y - 20, ScanOptions(shape=(40, 36), origin=(-18, -20))),
    "of a stage": (
        1e4 + X * 0.05,
        -300 + Y * 0.05,
        ScanOptions(shape=(40, 36), step=0.05, position_unit="nm", origin=(1e4, -300)),
    ),
    "volts": (X / 36, Y / 36, ScanOptions(shape=(40, 36), step=1 / 36, position_unit="V")),
}


@pytest.mark.parametrize(("x", "y", "options"), ELSEWHERE.values(), ids=ELSEWHERE)
def test_positions_of_any_unit_and_origin(
    tmp_path: Path, x: np.ndarray, y: np.ndarray, options: ScanOptions
) -> None:
    path = write(tmp_path / "a.csv", table("x,y,dwell,i", x, y, DWELL, INTENSITY))
    is_the_scan(read_scan(path, options=options), rounding=1e-6)
    # Without shape and origin, the image begins where the positions begin.
    free = read_scan(path, options=replace(options, shape=None, origin=None)).raster()
    assert max(np.abs(np.subtract(free.shape, (40, 36)))) <= 1
    assert "as large as the positions reach" in free.notes[0]


BAD: dict[str, tuple[str, ScanOptions, str]] = {
    "no y": (table("x,i", X, INTENSITY), AS_STORED, "no y among x, i; name them.*--path"),
    "a path alone": (table("x,y,dwell", X, Y, DWELL), AS_STORED, "add a column `intensity`"),
    "coordinates alone": (table("", X, Y), AS_STORED, "add a column `intensity`"),
    "four columns without names": (table("", X, Y, DWELL, INTENSITY), AS_STORED, "first line"),
    "one name twice": (table("x,x,i", X, Y, INTENSITY), AS_STORED, "names the columns, each once"),
    "words": ("x,y,i\n1,2,3\n1,2,b\n", AS_STORED, "a number in each of the columns x, y, i"),
    "a short line": ("x,y,i\n1,2,3\n1,2\n", AS_STORED, "complete these lines"),
    "comments alone": ("# shape: 4 4\n", AS_STORED, "found no line of it"),
    "names alone": ("x,y,i\n", AS_STORED, "."),
    "bytes": ("\0\1\2", AS_STORED, "."),
    "no step": (table("x [nm],y [nm],i", X, Y, INTENSITY), AS_STORED, "give --step in nm"),
    "steps of a generator": (table("x,y,i", X * 99, Y * 99, INTENSITY), AS_STORED, "--step"),
    "mostly outside": (
        table("x,y,i", X - 99, Y, INTENSITY),
        ScanOptions(shape=(40, 36)),
        "outside of it; give --shape.*--origin",
    ),
    "a shape of one": (
        table("x,y,i", X, Y, INTENSITY, comments="# shape: 40\n"),
        AS_STORED,
        "two numbers",
    ),
    "no full dwell": (
        table("x,y,dwell_us,i", X, Y, DWELL, INTENSITY, comments=SHAPE_LINE),
        AS_STORED,
        "give --full-dwell in us",
    ),
    "microseconds not named": (
        table("x,y,dwell,i", X, Y, DWELL * 40.5, INTENSITY),
        AS_STORED,
        "--dwell-unit us --full-dwell 10",
    ),
    "seconds not named": (
        table("x,y,dwell,i", X, Y, DWELL * 1e-5, INTENSITY),
        AS_STORED,
        "--dwell-unit us --full-dwell 10",
    ),
    "a unit of dwell": (table("x,y,dwell [V],i", X, Y, DWELL, INTENSITY), AS_STORED, "found 'V'"),
    "constant": (table("x,y,i", X, Y, 0 * X), AS_STORED, "not all equal"),
    "positions of nan": (table("x,y,i", X * np.nan, Y, INTENSITY), AS_STORED, "finite positions"),
}


@pytest.mark.parametrize(("text", "options", "message"), BAD.values(), ids=BAD)
def test_what_is_no_scan_gives_one_line(
    tmp_path: Path, text: str, options: ScanOptions, message: str
) -> None:
    path = write(tmp_path / "a.csv", text)
    with pytest.raises(DataError, match=message) as caught:
        read_scans(path, options=options)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.parquet", "a.npz", "a.h5", "a.csv", "a.tsv"])
@pytest.mark.parametrize("content", [None, b"", b"PAR1 and so on"], ids=["none", "empty", "cut"])
def test_damaged_files_give_one_line(tmp_path: Path, name: str, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_scans(tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path / name))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.json", "a.npy", "a.tif"])
def test_a_path_that_is_none_gives_one_line(tmp_path: Path, name: str) -> None:
    np.save(tmp_path / "i.npy", INTENSITY)
    write(tmp_path / name, "[1, 2]")
    with pytest.raises(DataError) as caught:
        read_scans(tmp_path / "i.npy", along=tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path / name))


odd = st.sampled_from([0.0, 1.0, -1.0, 0.5, 1e-9, 1e9, 1e30, np.nan, np.inf, -np.inf])


@st.composite
def columns(draw: st.DrawFn) -> dict[str, np.ndarray]:
    """Columns of a scan of a few lines, in which odd values stand in some places."""
    rng = np.random.default_rng(draw(seeds))
    num = draw(st.integers(1, 60))
    names = ["x", "y", draw(st.sampled_from(["intensity", "HAADF", "dwell_us"]))]
    names += draw(st.lists(st.sampled_from(["dwell", "t [us]", "scan", "BF"]), unique=True))
    found = {name: rng.uniform(0, 9, num) for name in names}
    for name in draw(st.lists(st.sampled_from(names), max_size=3)):
        found[name][rng.uniform(size=num) < 0.3] = draw(odd)
    return found


@given(
    columns=columns(),
    shape=st.none() | st.just("9 12") | st.just("1 1") | st.just("a"),
    step=st.none() | st.sampled_from([1.0, 0.1, 0.0, np.nan]),
    full=st.none() | st.just(10.0),
)
def test_anything_is_checked_scans_or_refused(
    columns: dict[str, np.ndarray], shape: str | None, step: float | None, full: float | None
) -> None:
    samples = Samples(columns, {} if shape is None else {"shape": shape})
    try:
        scans = path_scans(samples, "a.csv", ScanOptions(step=step, full_dwell=full))
    except DataError:
        return
    assert scans
    for scan in scans:
        raster = scan.raster()
        assert np.isfinite(raster.intensity[raster.measured]).all()
        assert 0 < raster.coverage <= 1 + 1e-6


DOCS = Path(__file__).parents[4] / "docs" / "data.md"


@pytest.mark.parametrize("text", re.findall(r"^```csv\n(.*?)^```", DOCS.read_text(), re.M | re.S))
def test_tables_in_the_docs_are_read(tmp_path: Path, text: str) -> None:
    scan = read_scan(write(tmp_path / "a.csv", text))
    assert isinstance(scan, PathScan)
    assert scan.path.shape == (96, 128)
    np.testing.assert_allclose(scan.path.positions[0], [10.25, 40.5], atol=1e-6)
    np.testing.assert_allclose(scan.path.dwell, 0.25)
    assert scan.notes == ()


def test_files_of_arrays_in_the_docs_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"^```python\n(import h5py.*?)^```", DOCS.read_text(), re.M | re.S)
    exec(code, {})
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("suffix", ["npz", "h5"])
def test_axes_of_a_square_image_are_no_path(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    image = np.random.default_rng(0).uniform(size=(16, 16))
    arrays = {"image": image, "x": np.arange(16), "y": 0.05 * np.arange(16)[::-1], "scale": 0.05}
    if suffix == "npz":
        np.savez(path, **arrays)
    else:
        with h5py.File(path, "w") as file:
            for name, array in arrays.items():
                file[name] = array
    assert read_samples(path) is None
    [micrograph] = read_micrographs(path)
    np.testing.assert_array_equal(micrograph.pixels, image)
