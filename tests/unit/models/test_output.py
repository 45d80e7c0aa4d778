"""What a network adds to the first completion is bounded, whatever it says."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import tensor_scans

from stem_complete.models import to_completion
from stem_complete.models.output import LIMIT, RMS_LIMIT, SCATTER, credible_share
from stem_complete.scan import encode


@given(tensor_scans(), st.floats(-1e6, 1e6), st.integers(0, 5))
def test_no_output_of_a_network_leaves_its_bounds(scan, size, seed):
    encoded = encode(scan, "adaptive")
    assert encoded.x.isfinite().all()
    output = size * torch.randn(encoded.offset.shape, generator=torch.Generator().manual_seed(seed))
    completion = to_completion(output, encoded)
    assert completion.isfinite().all()
    unbounded = encoded._replace(
        bound=encoded.bound._replace(
            lowest=torch.full_like(encoded.scale, -math.inf),
            highest=torch.full_like(encoded.scale, math.inf),
        )
    )
    change = (to_completion(output, unbounded) - encoded.offset) / encoded.scale
    rounding = 1e-5 * (1 + encoded.offset.abs().amax() / encoded.scale.min())
    assert (change.square().mean((1, 2, 3)).sqrt() <= RMS_LIMIT + rounding).all()
    assert (change.abs().amax((1, 2, 3)) <= LIMIT + rounding).all()
    measured = torch.where(scan.dwell > 0, scan.intensity, torch.nan).flatten(1)
    low, high = (torch.nanquantile(measured, q, dim=1).view(-1, 1, 1, 1) for q in (0.0, 1.0))
    scatter = encoded.scale * 2 ** encoded.x[:, 4:5, :1, :1]
    assert (completion >= low - scatter - rounding).all()
    assert (completion <= high + scatter + rounding).all()


@given(st.floats(0, 1e3))
def test_small_corrections_count_little_and_large_ones_wholly(rms):
    share = credible_share(torch.tensor(rms).square().view(1, 1, 1, 1)).item()
    assert share == pytest.approx(1 / (1 + (SCATTER / rms) ** 4) if rms > 1e-3 else 0, abs=1e-6)
    assert (share < 0.5) == (rms < SCATTER) or math.isclose(rms, SCATTER, rel_tol=1e-6)
