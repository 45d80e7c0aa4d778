"""ALRC against Algorithm 1 in float64, against the published code's rule, and its laws."""

import io
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import LOSS_SERIES, loss_values, losses

from stem_complete import ALRC


def paper_step(mu1, mu2, losses, n=3.0, rate=0.999):
    """Algorithm 1 in float64: clipped losses, gradient factors, new moments, threshold."""
    threshold = mu1 + n * math.sqrt(max(mu2 - mu1**2, 0.0))
    factors = np.where(losses > threshold, threshold / np.maximum(losses, 1e-300), 1.0)
    mean, square = losses.mean(), (losses**2).mean()
    return (
        factors * losses,
        factors,
        rate * mu1 + (1 - rate) * mean,
        rate * mu2 + (1 - rate) * square,
        threshold,
    )


def published_step(mu1, mu2, losses, n=3.0, rate=0.999):
    """The published code's rule in its float32: clipped moments, 1e-8 under the root."""
    f = np.float32
    threshold = f(mu1 + f(n) * np.sqrt(f(mu2 - mu1 * mu1 + f(1e-8))))
    losses = losses.astype(f)
    clipped = np.where(losses < threshold, losses, losses / (losses / threshold)).astype(f)
    factors = np.where(losses < threshold, f(1), f(1) / (losses / threshold))
    mu1 = f(f(rate) * mu1 + f(1 - rate) * clipped.mean(dtype=f))
    mu2 = f(f(rate) * mu2 + f(1 - rate) * (clipped * clipped).mean(dtype=f))
    return clipped, factors, mu1, mu2, threshold


# Rounding adds up over many steps, whatever the shape.
@pytest.mark.parametrize(
    ("shape", "steps"), [((16,), 400), ((), 30), ((1,), 30), ((1, 1, 24, 24), 30)], ids=str
)
@pytest.mark.parametrize(
    ("reference", "kind"),
    [(paper_step, kind) for kind in LOSS_SERIES]
    # In the published float32 formula mu2 - mu1^2 cancels for losses that hardly vary.
    + [(published_step, kind) for kind in ("lognormal", "spikes", "falling")],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_follows_the_reference(shape, steps, kind, reference):
    paper = reference is paper_step
    # Moments without their low-order bits err by 1.5e-6 once losses have fallen.
    tolerance = 1e-6 if paper else 1e-4
    rng = np.random.default_rng(0)
    losses = LOSS_SERIES[kind](rng, steps * math.prod(shape)).astype(np.float32)
    losses = losses.reshape(steps, *shape)
    mu1, mu2 = (25.0, 900.0) if paper else (np.float32(25.0), np.float32(900.0))
    alrc = ALRC() if paper else ALRC(moments="clipped", variance_floor=1e-8)
    expected, found = [], []
    for row in losses:
        expected.append(reference(mu1, mu2, row.astype(np.float64)))
        _, _, mu1, mu2, _ = expected[-1]
        loss = torch.tensor(row, requires_grad=True)
        threshold, clipped = alrc.threshold, alrc(loss)
        clipped.sum().backward()
        found.append(
            (clipped.detach(), loss.grad, float(alrc.mu1), float(alrc.mu2), float(threshold))
        )
    # Compared at the end, as each comparison takes longer than a step.
    for ours, theirs in zip(zip(*found, strict=True), zip(*expected, strict=True), strict=True):
        np.testing.assert_allclose(np.stack(ours), np.stack(theirs), rtol=tolerance)


def test_moments_of_the_published_cifar_code_come_to_a_third():
    alrc = ALRC(decay=(0.997, 0.997), intake=0.001)
    mu1, mu2 = 25.0, 900.0
    for step in range(4000):
        if step < 20:
            assert float(alrc.mu1) == pytest.approx(mu1, rel=1e-6)
            assert float(alrc.mu2) == pytest.approx(mu2, rel=1e-6)
            mu1, mu2 = 0.997 * mu1 + 0.001 * 2, 0.997 * mu2 + 0.001 * 2**2
        alrc(torch.tensor(2.0))
    assert float(alrc.mu1) == pytest.approx(2 / 3, rel=1e-3)
    assert float(alrc.threshold) == pytest.approx(2 * (1 / 3 + 3 * 2**0.5 / 3), rel=1e-2)


@given(
    loss=loss_values,
    mu1=st.floats(0.01, 100.0),
    spread=st.floats(0.01, 10.0),
    num_stddev=st.floats(0.1, 5.0),
)
def test_value_is_limited_and_gradient_scaled(loss, mu1, spread, num_stddev):
    alrc = ALRC(num_stddev, mu1_start=mu1, mu2_start=mu1**2 * (1 + spread))
    threshold = float(alrc.threshold)
    value = torch.tensor(loss, requires_grad=True)
    clipped = alrc(value)
    clipped.backward()
    if loss > threshold:
        assert clipped.item() == pytest.approx(threshold, rel=1e-5)
        assert value.grad.item() == pytest.approx(threshold / loss, rel=1e-5)
    else:
        assert clipped.item() == loss
        assert value.grad.item() == 1.0


def test_zero_loss_has_a_finite_gradient_even_at_threshold_zero():
    alrc = ALRC(mu1_start=0.0, mu2_start=1e-30)
    alrc.mu2.zero_()
    loss = torch.zeros(3, requires_grad=True)
    alrc(loss).sum().backward()
    assert alrc.threshold == 0
    assert loss.grad.tolist() == [1.0, 1.0, 1.0]


def test_threshold_is_that_from_before_the_step():
    alrc = ALRC(mu1_start=1.0, mu2_start=2.0)
    assert alrc(torch.tensor([1e6])).item() == pytest.approx(4.0)
    assert float(alrc.threshold) > 1000


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_non_finite_losses_are_counted_and_left_out(bad):
    alrc, clean = ALRC(), ALRC()
    out = alrc(torch.tensor([1.0, bad, 3.0]))
    clean(torch.tensor([1.0, 3.0]))
    assert not out[1].isfinite()
    assert float(alrc.mu1) == float(clean.mu1)
    assert float(alrc.mu2) == float(clean.mu2)
    assert alrc.num_nonfinite.item() == 1


def test_only_non_finite_losses_leave_the_moments():
    alrc = ALRC()
    alrc(torch.tensor([math.nan, math.inf]))
    assert (float(alrc.mu1), float(alrc.mu2)) == (25.0, 900.0)


def test_constant_losses_never_give_nan():
    alrc = ALRC(mu1_start=1.0, mu2_start=1.0001, decay=(0.9, 0.9))
    for _ in range(500):
        assert alrc(torch.tensor([1.1])).isfinite().all()
    assert float(alrc.threshold) == pytest.approx(1.1, rel=1e-4)


@given(losses=losses(smallest=4), num_parts=st.integers(1, 4))
def test_accumulation_equals_one_batch(losses, num_parts):
    whole, parts = ALRC(), ALRC(accumulate=True)
    whole(losses)
    for part in losses.chunk(num_parts):
        parts(part)
    assert float(parts.mu1) == 25.0
    parts.commit()
    assert float(parts.mu1) == pytest.approx(float(whole.mu1), rel=1e-6)
    assert float(parts.mu2) == pytest.approx(float(whole.mu2), rel=1e-6)


def test_committing_nothing_does_nothing():
    alrc = ALRC(accumulate=True)
    alrc.commit()
    assert (float(alrc.mu1), float(alrc.mu2)) == (25.0, 900.0)


def test_evaluation_mode_clips_without_learning():
    alrc = ALRC(mu1_start=1.0, mu2_start=2.0).eval()
    assert alrc(torch.tensor([100.0])).item() == pytest.approx(4.0)
    assert float(alrc.mu1) == 1.0


def test_survives_save_and_load():
    alrc = ALRC()
    for value in torch.rand(50):
        alrc(value)
    file = io.BytesIO()
    torch.save(alrc.state_dict(), file)
    file.seek(0)
    again = ALRC()
    again.load_state_dict(torch.load(file, weights_only=True))
    for value in torch.rand(50) * 30:
        assert torch.equal(alrc(value), again(value))
    assert torch.equal(alrc.threshold, again.threshold)


def test_moments_that_earlier_versions_saved_in_two_parts_are_read_as_one():
    exact = torch.tensor([25.0 + 3e-7, 900.0 + 1e-5], dtype=torch.float64)
    heads = exact.float()
    alrc = torch.nn.ModuleDict({"outer": ALRC()})
    new = alrc.state_dict()
    saved = {
        "outer.mu1": heads[0],
        "outer.mu2": heads[1],
        "outer.rest": (exact - heads.double()).float(),
        "outer.num_nonfinite": torch.tensor(2.0),
    }
    assert saved.keys() == new.keys() | {"outer.rest"}
    alrc.load_state_dict(saved)
    moments = torch.stack((alrc["outer"].mu1, alrc["outer"].mu2))
    torch.testing.assert_close(moments, exact, rtol=1e-13, atol=0)
    assert alrc["outer"].num_nonfinite == 2


def test_signed_losses_through_an_offset():
    alrc = ALRC(mu1_start=10.0, mu2_start=101.0, offset=10.0)
    loss = torch.tensor([-5.0, 20.0], requires_grad=True)
    clipped = alrc(loss)
    clipped.sum().backward()
    assert clipped.tolist() == pytest.approx([-5.0, 3.0])
    assert loss.grad.tolist() == pytest.approx([1.0, 13.0 / 30.0])


def test_lower_bound_raises_small_losses():
    alrc = ALRC(num_stddev_below=2.0, mu1_start=10.0, mu2_start=101.0)
    loss = torch.tensor([4.0, 0.0], requires_grad=True)
    clipped = alrc(loss)
    clipped.sum().backward()
    assert clipped.tolist() == pytest.approx([8.0, 0.0])
    assert loss.grad.tolist() == pytest.approx([2.0, 1.0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_keeps_the_dtype_of_the_loss(dtype):
    alrc = ALRC(mu1_start=1.0, mu2_start=2.0)
    out = alrc(torch.tensor([1.0, 100.0], dtype=dtype))
    assert out.dtype == dtype
    assert out.tolist() == pytest.approx([1.0, 4.0], rel=1e-2)
    assert alrc.mu1.dtype == torch.float64


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mu1_start": 30.0, "mu2_start": 900.0}, "mu2_start must exceed"),
        ({"decay": (0.9, 1.1)}, "decay must be"),
        ({"moments": "both"}, "moments must be"),
        ({"variance_floor": -1.0}, "variance_floor"),
        ({"decay": (0.9, 0.99), "intake": 0.02}, "intake"),
    ],
    ids=["variance", "decay", "moments", "floor", "intake"],
)
def test_rejects_impossible_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        ALRC(**settings)
