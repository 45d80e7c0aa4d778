"""Of a damaged file its owner is told what is wrong, in no library's words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from stem_complete.data.formats.instruments import check_size
from stem_complete.data.formats.micrographs import read_file
from stem_complete.errors import DataError

DATA = Path(__file__).parents[3] / "data"

FILES = {
    "dm3": DATA / "haadf_tilt_series.dm3",
    "dm4": DATA / "spim4-2-df-ref.dm4",
    "ser": DATA / "thermo_diffraction" / "bright_1.ser",
    "h5": DATA / "nanoparticles_01.h5",
}

ENDS = r"found one that ends after [\d,]+ bytes?, before all that it announces; check that"
START = "found another start than such files have, "
SENSELESS = "found contents that make no sense in this format; check that"


def cut(share: float) -> Callable[[bytes], bytes]:
    return lambda whole: whole[: max(1, int(share * len(whole)))]


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "one byte": (cut(0), ENDS),
    "forty bytes": (lambda whole: whole[:40], ENDS),
    "cut off in the header": (lambda whole: whole[:150], ENDS),
    "cut off in the middle": (cut(0.5), ENDS),
    "text": (lambda whole: b"no image\n" * 99, f"{START}'no image'"),
    "zeros": (lambda whole: bytes(len(whole)), f"{START}zeros alone"),
    "other bytes": (lambda whole: b"\xff" * len(whole), f"{START}ff ff ff ff"),
    "nonsense after the start": (
        lambda whole: whole[:8] + b"\x7f\xfe" * 300 + whole[608:],
        f"({ENDS}|{SENSELESS})",
    ),
}


@pytest.mark.parametrize(("change", "found"), [*DAMAGES.values()], ids=[*DAMAGES])
@pytest.mark.parametrize("kind", [*FILES])
def test_damage_is_told_in_words_for_its_owner(
    tmp_path: Path, kind: str, change: Callable[[bytes], bytes], found: str
) -> None:
    pytest.importorskip("rsciio")
    path = tmp_path / f"a_1.{kind}"
    path.write_bytes(change(FILES[kind].read_bytes()))
    with pytest.raises(DataError, match=rf"^{path}: expected a readable \.{kind} file, {found}"):
        read_file(path)


def test_a_header_that_announces_too_much_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "a_1.ser"
    path.write_bytes(bytes(2000))
    check_size(path, np.zeros((80, 100), np.uint16))
    huge = np.broadcast_to(np.uint16(0), (10_000_000, 1024, 1024))
    with pytest.raises(EOFError, match=r"announces 21 TB of pixels.*in a file of 2 kB"):
        check_size(path, huge)
