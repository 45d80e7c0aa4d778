"""HyperSpy's signals that are written, as RosettaSciIO and our own reader have them."""

from __future__ import annotations

import numpy as np
import pytest
from rsciio.hspy import file_reader

from stem_complete.data.about import About
from stem_complete.data.formats.hspy_writer import read_hspy_info, write_hspy
from stem_complete.data.formats.micrographs import read_file

ABOUT = About(
    "gold/carbon",
    "nA",
    {
        "General": {"date": "2026-01-02"},
        "Acquisition_instrument": {"TEM": {"beam_energy": 200.0, "acquisition_mode": "STEM"}},
    },
)


@pytest.mark.parametrize("shape", [(40, 48), (3, 40, 48)], ids=str)
@pytest.mark.parametrize("pixel_size_nm", [0.05, None])
def test_it_comes_back_as_it_was(tmp_path, shape, pixel_size_nm):
    image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    path = tmp_path / "a.hspy"
    write_hspy(path, image, pixel_size_nm, ABOUT, {"model": "µ"})
    (signal,) = file_reader(str(path))
    np.testing.assert_array_equal(signal["data"], image)
    assert [axis["navigate"] for axis in signal["axes"]] == [False] * 2 if image.ndim == 2 else [
        True, False, False
    ]  # fmt: skip
    for axis in signal["axes"][-2:]:
        expected = (1.0, None) if pixel_size_nm is None else (pixel_size_nm, "nm")
        assert (axis["scale"], axis["units"]) == expected
    metadata = signal["metadata"]
    assert metadata["General"] == {"date": "2026-01-02", "title": "gold/carbon"}
    assert metadata["Signal"]["quantity"] == "nA"
    assert metadata["Acquisition_instrument"]["TEM"]["beam_energy"] == 200.0
    assert read_hspy_info(path) == {"model": "µ"}
    found = read_file(path).micrographs
    np.testing.assert_array_equal([f.pixels for f in found], image.reshape(-1, 40, 48))
    assert {each.pixel_size_nm for each in found} == {pixel_size_nm}
    assert found[0].about == ABOUT
