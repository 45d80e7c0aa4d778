"""Instruments' files hold images beside diffraction patterns, which are told apart."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from stem_complete.data.formats.micrographs import read_file, read_micrograph
from stem_complete.errors import DataError

DATA = Path(__file__).parents[3] / "data" / "thermo_diffraction"

pytest.importorskip("rsciio")
pytest.importorskip("h5py")  # here, as its import starts a process


def test_velox() -> None:
    contents = read_file(DATA / "session.emd")
    assert [(m.name, m.frame) for m in contents.micrographs] == [
        ("HAADF", 0),
        ("DF-I", 0),
        ("DF-I", 1),
    ]
    assert [m.pixel_size_nm for m in contents.micrographs] == pytest.approx([0.05] * 3)
    assert contents.skipped == ["BM-Ceta: diffraction patterns, shape (96, 96), in 1 / µm"]


def test_a_series_of_tia_is_read_with_its_emi() -> None:
    assert read_micrograph(DATA / "bright_1.ser").pixel_size_nm == pytest.approx(0.05)
    for name in ("saed_1.ser", "saed.emi"):
        with pytest.raises(DataError, match="diffraction patterns"):
            read_file(DATA / name)


@pytest.mark.parametrize("emi", [None, b"", b"<ObjectInfo>x"], ids=str)
def test_a_series_of_tia_without_its_emi(tmp_path: Path, emi: bytes | None) -> None:
    for name in ("bright", "saed"):
        shutil.copy(DATA / f"{name}_1.ser", tmp_path)
        if emi is not None:
            (tmp_path / f"{name}.emi").write_bytes(emi)
    assert read_micrograph(tmp_path / "bright_1.ser").pixel_size_nm == pytest.approx(0.05)
    with pytest.raises(DataError, match="diffraction patterns"):
        read_file(tmp_path / "saed_1.ser")


def test_an_emi_file_without_its_images_says_which_are_missing(tmp_path: Path) -> None:
    shutil.copy(DATA / "bright.emi", tmp_path)
    with pytest.raises(DataError, match=r"beside it, bright_1\.ser and so on, found none; copy"):
        read_file(tmp_path / "bright.emi")
