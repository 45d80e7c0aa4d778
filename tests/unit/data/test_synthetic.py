"""Synthetic micrographs: functions of the key, in range, varied, and drawn without a wait."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from stem_complete.data.synthetic import replace_by_synthetic, synthetic_micrographs
from stem_complete.distributed import WorkerContext
from stem_complete.errors import ConfigError
from stem_complete.scan import example_keys, fold_in, uniform
from stem_complete.training import Checkpoints, train

SIZE = 64
KEYS = example_keys(0, 0, torch.arange(24), stream=1)


@pytest.fixture(scope="module")
def images():
    return synthetic_micrographs(KEYS, SIZE)


def sharpest_peak(image):
    """How much stronger the strongest wave is than others of about its wavelength."""
    size = image.shape[-1]
    window = torch.hann_window(size, periodic=False)
    power = torch.fft.rfft2((image - image.mean()) * window * window[:, None]).abs().square()
    down, across = torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size)
    ring = (size * (down**2 + across**2).sqrt()).round().long()
    count = torch.bincount(ring.flatten())
    mean = torch.bincount(ring.flatten(), power.flatten()) / count
    # Not rings that are too small to have a mean or cut by the corners, nor the lines' own noise.
    inside = (ring > 6) & (ring < size // 2) & (across > 1.5 / size)
    return float((power / mean[ring])[inside].max())


def test_images_span_the_range(images):
    assert images.shape == (24, 1, SIZE, SIZE)
    assert images.isfinite().all()
    torch.testing.assert_close(images.amin((1, 2, 3)), -torch.ones(24), atol=1e-5, rtol=0)
    torch.testing.assert_close(images.amax((1, 2, 3)), torch.ones(24), atol=1e-5, rtol=0)


def test_an_image_is_a_function_of_its_key(images):
    backwards = synthetic_micrographs(KEYS[:6].flip(0), SIZE)
    assert torch.equal(backwards.flip(0), images[:6])
    assert torch.equal(synthetic_micrographs(KEYS[3:4], SIZE), images[3:4])


def test_no_two_images_are_alike(images):
    flat = images.flatten(1) - images.mean((2, 3))
    flat = flat / flat.norm(dim=1, keepdim=True)
    alike = (flat @ flat.T - torch.eye(24)).abs()
    assert alike.max() < 0.9
    assert alike.mean() < 0.3


@pytest.mark.parametrize("size", [16, 50, 65, 96], ids=str)
def test_any_size(size):
    image = synthetic_micrographs(KEYS[:1], size)
    assert image.shape == (1, 1, size, size)
    assert image.isfinite().all()


def test_too_small_images_are_refused():
    with pytest.raises(ValueError, match="at least 16"):
        synthetic_micrographs(KEYS, 15)


def test_crystals_diffract_and_films_do_not():
    # The first number of an image decides what it mostly shows, the seventh whether of crystals.
    keys = example_keys(1, 0, torch.arange(60), stream=1)
    kind, *_, fringes = uniform(fold_in(keys, 1), (7,)).unbind(1)
    crystals, films = keys[kind < 0.45], keys[(kind >= 0.78) & (fringes >= 0.3)]
    peaks = [
        torch.tensor([sharpest_peak(image[0]) for image in synthetic_micrographs(part, 128)])
        for part in (crystals, films)
    ]
    assert peaks[0].median() > 2 * peaks[1].median()


def test_nothing_waits_for_the_device():
    with profile(activities=[ProfilerActivity.CPU]) as record:
        synthetic_micrographs(KEYS[:1], SIZE)
    names = {event.key for event in record.key_averages()}
    waits = {"aten::_local_scalar_dense", "aten::item", "aten::nonzero", "aten::masked_select"}
    assert "aten::grid_sampler_2d" in names
    assert not names & waits


def test_any_share_of_the_batch_gets_the_same_images():
    positions = torch.arange(8)
    real = torch.zeros(8, 1, SIZE, SIZE)
    whole = replace_by_synthetic(real, 0.5, 3, 7, positions)
    parts = [replace_by_synthetic(real[p], 0.5, 3, 7, positions[p]) for p in positions.split(2)]
    assert torch.equal(torch.cat(parts), whole)
    tensor_step = replace_by_synthetic(real, 0.5, 3, torch.tensor(7), positions)
    assert torch.equal(tensor_step, whole)
    assert not torch.equal(replace_by_synthetic(real, 0.5, 3, 8, positions), whole)


def test_fractions():
    real = torch.zeros(24, 1, 16, 16)
    positions = torch.arange(24)
    assert replace_by_synthetic(real, 0.0, 0, 0, positions) is real
    replaced = {
        fraction: int(
            (replace_by_synthetic(real, fraction, 0, 0, positions).amax((1, 2, 3)) > 0).sum()
        )
        for fraction in (0.5, 1.0)
    }
    assert 5 < replaced[0.5] < 19
    assert replaced[1.0] == 24


def test_training_on_synthetic_micrographs_alone(small_config):
    def state(name, *overrides):
        config = small_config("training.steps=2", "training.num_pictures=0", *overrides, name=name)
        assert train(config, WorkerContext()).step == 2
        return Checkpoints(config.run_folder).latest().state["optimizer"]

    def distance(one, other):
        norm = sum(float(value.norm() ** 2) for value in one.values())
        apart = sum(float((value - other[name]).norm() ** 2) for name, value in one.items())
        return (apart / norm) ** 0.5

    synthetic = state("synthetic", "data.synthetic=1")
    shared_out = state("shared-out", "data.synthetic=1", "training.micro_batch_size=2")
    real = state("real")
    assert distance(synthetic, shared_out) < 1e-2
    assert distance(synthetic, real) > 0.1


def test_a_run_may_end_on_micrographs_alone(small_config):
    train(small_config("training.steps=2", "data.synthetic=1"), WorkerContext())
    assert train(small_config("training.steps=3"), WorkerContext()).step == 3


@pytest.mark.parametrize("fraction", [-0.1, 1.1])
def test_fractions_out_of_range_are_refused(small_config, fraction):
    with pytest.raises(ConfigError, match="synthetic"):
        small_config(f"data.synthetic={fraction}")
