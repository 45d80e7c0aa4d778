"""Any scan is completed within its bounds by a network that learned nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import dtypes, gains, micrograph, offsets, seeds
from training_runs import SMALLEST

from stem_complete.config import load_config
from stem_complete.data.scans import PathScan, RasterScan
from stem_complete.errors import DataError
from stem_complete.inference import Completer, build_artifact
from stem_complete.models.output import RMS_LIMIT
from stem_complete.scan import GEOMETRIES, PartialScan, encode
from stem_complete.training import build_task


@pytest.fixture(scope="module")
def untrained() -> Completer:
    changes = [SMALLEST, "model.encoding=adaptive", "data.store=x", "storage=x"]
    config = load_config(["compact"], changes)
    task = build_task(config, (64, 64))
    with torch.no_grad():
        for parameter in task.network.parameters():
            parameter.normal_(std=3.0)  # so that its output is far beyond any completion
    return Completer(build_artifact(task.network, config=config), "cpu")


def check(completer: Completer, scan: RasterScan) -> None:
    completion = completer.complete_scan(scan, check=completer.self_check(scan))
    first = completer.first_completion(scan)
    assert completion.image.dtype == np.float32
    assert np.isfinite(completion.image).all()
    low, high = scan.measured_range
    middle, half = (high + low) / 2, (high - low) / 2 or 1.0
    unit = torch.from_numpy(((scan.intensity - middle) / half).astype(np.float32))[None, None]
    encoded = encode(PartialScan(unit, torch.from_numpy(scan.dwell)[None, None]), "adaptive")
    # As large as the rounding of float32 is beside the contrast.
    rounding = 1e-5 * (half + abs(middle))
    change = np.sqrt(np.mean((completion.image.astype(np.float64) - first) ** 2))
    assert change <= half * RMS_LIMIT * float(encoded.scale) * (1 + 1e-3) + rounding
    assert (completion.image >= middle + half * float(encoded.bound.lowest) - rounding).all()
    assert (completion.image <= middle + half * float(encoded.bound.highest) + rounding).all()


kinds = st.sampled_from(["noise", "texture", "lattice", "edge", "constant"])
sides = st.tuples(st.integers(32, 70), st.integers(32, 70))


@given(kinds, sides, seeds, st.sampled_from(sorted(GEOMETRIES)), gains, offsets, dtypes)
@settings(max_examples=20, deadline=None)
def test_scans_along_any_geometry_in_any_numbers(
    untrained, kind, shape, seed, geometry, gain, offset, dtype
):
    image = micrograph(kind, seed, shape)
    dwell = GEOMETRIES[geometry](shape, 1 / 8).dwell_map().numpy()
    values = gain * (image + offset)
    if np.dtype(dtype).kind != "f":
        limits = np.iinfo(dtype)
        values = np.clip(100 * image + 50, limits.min, limits.max)
    scan = RasterScan(values.astype(dtype).astype(np.float64), dwell)
    check(untrained, scan)


@given(sides, seeds, st.integers(1, 400), gains, offsets, st.floats(0, 1e4))
@settings(max_examples=20, deadline=None)
def test_scans_along_any_path_with_outliers(untrained, shape, seed, num, gain, offset, outlier):
    rng = np.random.default_rng(seed)
    size = np.array([shape[1], shape[0]])
    positions = rng.uniform(-0.1, 1.1, (num, 2)) * size
    if rng.random() < 0.5:  # a half that was never visited
        positions[:, 0] /= 2
    dwell = rng.exponential(size=num) * (rng.random(num) < 0.9)
    dwell *= min(1.0, 0.5 * shape[0] * shape[1] / max(dwell.sum(), 1e-9))
    intensity = rng.normal(size=num)
    intensity[rng.integers(num)] += outlier
    try:
        scan = PathScan(positions, dwell, gain * (intensity + offset), shape).raster()
    except DataError:
        return  # nothing of it lies in the image
    check(untrained, scan)


@given(gain=st.floats(1e-6, 1e6), offset=st.floats(-100, 100))
@settings(max_examples=20, deadline=None)
def test_the_image_follows_gain_and_offset_of_the_detector(
    completer: Completer, texture: Any, spiral: Any, gain: float, offset: float
) -> None:
    intensity, dwell = spiral(texture(0))
    plain = completer.complete(intensity, dwell)
    # The offset is in units of the contrast: beyond that float32 has no digits for both.
    changed = completer.complete(gain * (intensity + offset), dwell)
    np.testing.assert_allclose(
        changed.image / gain - offset, plain.image, atol=1e-3 + 1e-6 * abs(offset)
    )
    np.testing.assert_allclose(changed.error / gain, plain.error, rtol=1e-3)
