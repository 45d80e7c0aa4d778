"""The example of a real scan: its report and picture, on a small mask."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from stem_complete.experiments import real_scan


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("real")
    rng = np.random.default_rng(0)
    image = gaussian_filter(rng.normal(size=(64, 64)), 1.2)
    np.save(folder / "mask.npy", np.where(rng.random(image.shape) < 0.4, image, 0.0123))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(real_scan, "NUM_DRAWS", 1)
        real_scan.main([str(folder / "mask.npy"), "--output", str(folder / "docs")])
    return folder / "docs"


def test_it_says_what_was_found(report):
    text = (report / "real_scan.md").read_text()
    assert "exactly 0.0123" in text
    rows = [line.split("|")[1:3] for line in text.splitlines() if line.startswith("| ")]
    errors = {name.strip(): float(error) for name, error in rows[2:]}
    assert {"nearest neighbour", "model alone", "model with self-check"} <= errors.keys()
    assert errors["model with self-check"] < errors["nearest neighbour"]
    assert (report / "images" / "real_scan.png").stat().st_size > 10_000


def test_held_out_pixels_are_predicted_from_the_rest_alone():
    rng = np.random.default_rng(0)
    image = rng.normal(size=(64, 64))
    scan = real_scan.RasterScan(np.where(rng.random(image.shape) < 0.4, image, np.nan))
    seen = []

    def cheat(rest):
        seen.append(rest)
        return image

    def know_nothing(rest):
        return np.zeros(rest.shape)

    found = real_scan.errors(scan, {"cheat": cheat, "nothing": know_nothing})
    assert found["cheat"] == [0.0] * real_scan.NUM_DRAWS
    assert found["nothing"] == pytest.approx([1.0] * real_scan.NUM_DRAWS, abs=0.1)
    for rest in seen:
        held = scan.measured & ~rest.measured
        assert 0.05 < held.sum() / scan.measured.sum() < 0.15
