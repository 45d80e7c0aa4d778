"""Counter-based random numbers: right distributions, no correlations, any batching."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from stem_complete.scan.random import (
    Stream,
    example_keys,
    fold_in,
    integers,
    key,
    normal,
    poisson,
    uniform,
)

NUM = 100_000
ZERO = torch.tensor(0)
# Fixed seeds make these tests deterministic; the limit only keeps the seeds from being lucky.
MIN_P_VALUE = 1e-3


def keys_of(seed, step, positions, stream=0):
    """As `example_keys`, for any number of streams and steps."""
    return folded(key(seed, positions.device), step, positions, stream)


def folded(keys, step, positions, stream=0):
    return fold_in(fold_in(fold_in(keys, stream), step), positions)


def one_key(seed=0, step=0, position=0, stream=0):
    return keys_of(seed, step, torch.tensor([position]), stream)


@pytest.mark.parametrize("seed", [0, 1, 2**63, -5])
def test_uniform_is_uniform(seed):
    u = uniform(one_key(seed), (NUM,))[0].double().numpy()
    assert u.min() >= 0
    assert u.max() < 1
    assert stats.kstest(u, "uniform").pvalue > MIN_P_VALUE


@pytest.mark.parametrize("seed", [0, 1, 2**63, -5])
def test_normal_is_normal(seed):
    z = normal(one_key(seed), (10 * NUM,))[0].double().numpy()
    assert stats.kstest(z, "norm").pvalue > MIN_P_VALUE
    assert abs(z.mean()) < 4e-3
    assert abs(z.var() - 1) < 6e-3
    assert abs(stats.kurtosis(z)) < 0.02


@pytest.mark.parametrize(
    "draw",
    [
        lambda keys: uniform(keys, (4,))[:, 0],
        lambda keys: normal(keys, (4,))[:, 3],
        lambda keys: uniform(fold_in(keys, 1), (1,))[:, 0],
        lambda keys: integers(keys, 2**31).double() / 2**31,
    ],
    ids=["uniform", "normal", "folded", "integers"],
)
@pytest.mark.parametrize(
    "keys",
    [
        keys_of(0, 0, torch.arange(NUM)),
        keys_of(0, torch.arange(2000), ZERO),
        folded(torch.stack([key(seed) for seed in range(2000)]), 0, ZERO),
        keys_of(0, 0, ZERO, stream=torch.arange(2000)),
        torch.arange(NUM),
    ],
    ids=["positions", "steps", "seeds", "streams", "consecutive"],
)
def test_neighbouring_keys_are_independent(keys, draw):
    x = draw(keys).double().numpy()
    if x.min() < 0:
        x = stats.norm.cdf(x)
    assert stats.kstest(x, "uniform").pvalue > MIN_P_VALUE
    for lag in (1, 2, 7):
        assert stats.pearsonr(x[lag:], x[:-lag]).pvalue > MIN_P_VALUE


def test_neighbouring_pixels_are_uncorrelated():
    z = normal(one_key(), (300, 300))[0].double().numpy()
    assert stats.pearsonr(z[:, 1:].ravel(), z[:, :-1].ravel()).pvalue > MIN_P_VALUE
    assert stats.pearsonr(z[1:].ravel(), z[:-1].ravel()).pvalue > MIN_P_VALUE


def test_same_pixel_of_neighbouring_examples_is_uncorrelated():
    z = normal(keys_of(3, 8, torch.arange(2)), (NUM,)).double().numpy()
    assert stats.pearsonr(*z).pvalue > MIN_P_VALUE


def test_every_argument_changes_the_key():
    keys = {
        int(one)
        for seed in range(5)
        for step in range(5)
        for stream in Stream
        for one in example_keys(seed, step, torch.arange(5), stream)
    }
    assert len(keys) == 5**3 * len(Stream)


def test_streams_have_the_numbers_of_runs_that_go_on():
    # Another number here is another scan for every run that goes on.
    assert {stream.name: stream.value for stream in Stream} == {
        "FLIPS": (0, 0),
        "NOISE": (0, 1),
        "TONE_CURVE": (0, 3, 1),
        "INVERSION": (0, 3, 2),
        "PATH": (0, 4),
        "IS_NOISY": (0, 5),
        "DETECTION": (0, 6),
        "BRIGHTNESS": (0, 7),
        "CONTRAST": (0, 8),
        "SHIFT_ROWS": (0, 9),
        "SHIFT_COLUMNS": (0, 10),
        "PARTS": (2, 0),
        "OTHER_PARTS": (2, 1),
        "OTHER_FLIPS": (2, 2),
        "OVERLAY": (2, 3),
        "HARD_EXAMPLES": (2, 4),
        "SMOOTHING": (2, 5),
    }
    positions = torch.arange(3)
    keys = fold_in(fold_in(keys_of(1, 2, positions, 0), 3), 2)
    assert torch.equal(example_keys(1, 2, positions, Stream.INVERSION), keys)


def test_one_flipped_bit_turns_half_of_the_key():
    flips = [
        bin((int(one_key(step=17)) ^ int(one_key(step=17 ^ 1 << bit))) & (2**64 - 1)).count("1")
        for bit in range(40)
    ]
    assert 28 < np.mean(flips) < 36


@pytest.mark.parametrize(
    "draw",
    [
        lambda keys: uniform(keys, (3, 5)),
        lambda keys: normal(keys, (3, 5)),
        lambda keys: integers(keys, 8),
        lambda keys: poisson(keys, torch.full((len(keys), 3, 5), 7.0)),
        lambda keys: poisson(keys, torch.full((len(keys), 3, 5), 70.0)),
    ],
    ids=["uniform", "normal", "integers", "poisson-small", "poisson-large"],
)
def test_numbers_do_not_depend_on_the_batch(draw):
    positions = torch.arange(40, 52)
    whole = draw(keys_of(1, 2, positions, 3))
    parts = torch.cat([draw(keys_of(1, 2, part, 3)) for part in positions.split([5, 1, 6])])
    assert torch.equal(whole, parts)


def test_a_step_may_be_a_tensor():
    positions = torch.arange(3)
    keys = example_keys(1, 2, positions, Stream.NOISE)
    assert torch.equal(keys, example_keys(1, torch.tensor(2), positions, Stream.NOISE))


def test_keys_and_numbers_are_those_of_plain_integer_arithmetic():
    # A second implementation without torch: a change here breaks the resumption of old runs.
    gamma, mask = 0x9E3779B97F4A7C15, 2**64 - 1

    def mix(x):  # SplitMix64's finaliser (Steele, Lea and Flood 2014)
        x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & mask
        x = ((x ^ x >> 27) * 0x94D049BB133111EB) & mask
        return x ^ x >> 31

    seed, step, position, stream = 1, 2, 3, 4
    plain = seed
    for value in (stream, step, position):
        plain = mix((mix((plain + gamma) & mask) + value) & mask)
    keys = one_key(seed, step, position, stream)
    assert int(keys[0]) & mask == plain

    numbers = [(mix((plain + i) * gamma & mask) >> 40) / 2**24 for i in (1, 2, 3)]
    assert uniform(keys, (3,))[0].tolist() == numbers


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_numbers_are_the_same_on_a_gpu():
    keys = example_keys(0, 1, torch.arange(4), Stream.NOISE)
    there = example_keys(0, 1, torch.arange(4, device="cuda"), Stream.NOISE)
    assert torch.equal(there.cpu(), keys)
    assert torch.equal(uniform(there, (100, 100)).cpu(), uniform(keys, (100, 100)))
    assert torch.allclose(normal(there, (100, 100)).cpu(), normal(keys, (100, 100)), atol=1e-5)


@pytest.mark.parametrize("high", [1, 2, 8, 13, 2**31])
def test_integers_are_uniform(high):
    x = integers(keys_of(0, 5, torch.arange(NUM), 1), high).numpy()
    assert x.min() >= 0
    assert x.max() < high
    if 1 < high < 100:
        assert stats.chisquare(np.bincount(x, minlength=high)).pvalue > MIN_P_VALUE


@pytest.mark.parametrize("high", [0, -1, 2**31 + 1])
def test_integers_need_a_range(high):
    with pytest.raises(ValueError, match="high"):
        integers(one_key(), high)


@pytest.mark.parametrize("rate", [0.3, 2, 5, 7.99, 8, 20, 100, 1e4])
def test_poisson_counts_are_poisson(rate):
    n = poisson(one_key(seed=1), torch.full((1, NUM), rate))[0].double().numpy()
    assert (n == np.round(n)).all()
    assert abs(n.mean() - rate) < 4 * np.sqrt(rate / NUM)
    assert abs(n.var() / rate - 1) < 4 * np.sqrt((2 + 1 / rate) / NUM)
    # The largest gap of the distribution functions; for counts Kolmogorov's limit is cautious.
    counts = np.arange(int(n.max()) + 1)
    empirical = np.searchsorted(np.sort(n), counts, side="right") / NUM
    gap = np.abs(empirical - stats.poisson.cdf(counts, rate)).max()
    assert stats.kstwo.sf(gap, NUM) > MIN_P_VALUE


def test_poisson_of_nothing_is_nothing():
    assert poisson(one_key(), torch.zeros(1, NUM)).abs().max() == 0


def test_poisson_takes_a_rate_per_pixel():
    rate = torch.linspace(0, 30, 31).expand(4000, 31)
    mean = poisson(keys_of(0, 0, torch.arange(4000)), rate).mean(0)
    assert torch.allclose(mean, rate[0], atol=0.45)
