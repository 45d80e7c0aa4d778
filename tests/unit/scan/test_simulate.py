"""Simulated scans: reproducible, independent of the batch, one flip for scan and truth."""

from __future__ import annotations

import pytest
import torch

from stem_complete.scan import (
    Augmentation,
    Curriculum,
    Detector,
    NoNoise,
    ReferenceNoise,
    ScanSimulator,
    Stream,
    archimedean,
    blur,
    example_keys,
    uniform,
)
from stem_complete.scan.augment import flip_rotate
from stem_complete.scan.random import integers

PATH = archimedean((32, 32), "1/8")
IMAGES = uniform(example_keys(5, 0, torch.arange(6), Stream.NOISE), (1, 32, 32)) * 2 - 1
POSITIONS = torch.arange(10, 16)
NOISES = [NoNoise(), ReferenceNoise(), Detector(40.0, 0.0, 2.0)]


def simulator(noise=None, augmentation=Augmentation(), seed=0, sample="blurred", path=PATH):  # noqa: B008 - frozen
    return ScanSimulator(
        path, noise or ReferenceNoise(), seed, augmentation=augmentation, sample=sample
    )


def flips(positions):
    """What `simulator` draws in step 3."""
    return integers(example_keys(0, 3, positions, Stream.FLIPS), 8)


def flat(batch):
    """All tensors of a batch, NaN replaced so that they can be compared."""
    scan, truth, unblurred = batch
    return [scan.intensity.nan_to_num(9), scan.dwell, truth, unblurred]


@pytest.mark.parametrize("noise", NOISES, ids=lambda noise: type(noise).__name__)
def test_an_example_is_the_same_in_any_batch(noise):
    simulate = simulator(noise)
    whole = flat(simulate(IMAGES, 3, POSITIONS))
    parts = [
        flat(simulate(images, 3, positions))
        for images, positions in zip(
            IMAGES.split([1, 3, 2]), POSITIONS.split([1, 3, 2]), strict=True
        )
    ]
    for tensors, tensor in zip(zip(*parts, strict=True), whole, strict=True):
        assert torch.equal(torch.cat(tensors), tensor)


def test_a_step_can_be_repeated():
    again = simulator()
    for one, other in zip(
        flat(simulator()(IMAGES, 3, POSITIONS)),
        flat(again(IMAGES, torch.tensor(3), POSITIONS)),
        strict=True,
    ):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("seed", "step", "shift"), [(1, 3, 0), (0, 4, 0), (0, 3, 1)], ids=["seed", "step", "position"]
)
def test_seed_step_and_position_each_change_augmentation_and_noise(seed, step, shift):
    image = IMAGES[:1].expand(24, -1, -1, -1)
    positions = torch.arange(24)
    one = simulator()(image, 3, positions)
    other = simulator(seed=seed)(image, step, positions + shift)
    same_flip = (one.unblurred == other.unblurred).flatten(1).all(1)
    assert 0 < same_flip.sum() < 12
    # Where the flip happens to agree, the noise still differs.
    a, b = one.scan.intensity[same_flip], other.scan.intensity[same_flip]
    assert not (a.nan_to_num(9) == b.nan_to_num(9)).flatten(1).all(1).any()


def test_all_eight_flips_occur_equally_often():
    image = IMAGES[:1].expand(800, -1, -1, -1)
    flipped = simulator(NoNoise())(image, 0, torch.arange(800)).unblurred
    counts = [
        int((flipped == flip_rotate(IMAGES[:1], torch.tensor([choice]))).flatten(1).all(1).sum())
        for choice in range(8)
    ]
    assert sum(counts) == 800
    assert min(counts) > 65


@pytest.mark.parametrize("sample", ["blurred", "original"])
def test_scan_and_truth_see_the_same_flip(sample):
    batch = simulator(NoNoise(), sample=sample)(IMAGES, 3, POSITIONS)
    choice = flips(POSITIONS)
    assert len(choice.unique()) > 2
    assert torch.equal(batch.unblurred, flip_rotate(IMAGES, choice))
    assert torch.equal(batch.truth, blur(batch.unblurred, 2.5))
    measured = batch.scan.dwell > 0
    seen = batch.truth if sample == "blurred" else batch.unblurred
    assert torch.equal(batch.scan.intensity[measured], seen[measured])


def test_flipping_the_micrograph_beforehand_composes_with_the_augmentation():
    # The dwell map does not turn with the micrograph: another flip gives other pixels on the path,
    # but always those of the flipped truth.
    simulate = simulator(NoNoise())
    for choice in range(8):
        turned = flip_rotate(IMAGES, torch.full((6,), choice))
        batch = simulate(turned, 3, POSITIONS)
        assert torch.equal(batch.unblurred, flip_rotate(turned, flips(POSITIONS)))
        measured = batch.scan.dwell > 0
        assert torch.equal(batch.scan.intensity[measured], batch.truth[measured])
        assert torch.equal(batch.scan.dwell[0, 0], PATH.dwell_map())


def test_without_augmentation_the_micrograph_stays():
    batch = simulator(augmentation=None)(IMAGES, 3, POSITIONS)
    assert torch.equal(batch.unblurred, IMAGES)


def test_other_shapes_are_scanned_without_augmentation():
    path = archimedean((32, 50), "1/8")
    images = torch.zeros(2, 1, 32, 50)
    batch = simulator(augmentation=None, path=path)(images, 0, torch.arange(2))
    assert batch.scan.intensity.shape == images.shape


def test_the_dwell_map_moves_with_the_module_but_is_not_saved():
    simulate = simulator()
    assert dict(simulate.named_buffers())["dwell"].shape == (1, 1, 32, 32)
    assert simulate.state_dict() == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sample": "noisy"}, "sample must be"),
        ({"blur_sigma_px": 0}, "blur_sigma_px"),
        ({"paths": archimedean((32, 40)), "augmentation": Augmentation()}, "square"),
    ],
)
def test_impossible_simulators_are_refused(arguments, message):
    defaults = {"paths": PATH, "detections": NoNoise(), "seed": 0}
    with pytest.raises(ValueError, match=message):
        ScanSimulator(**defaults | arguments)


def test_micrographs_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="does not fit"):
        simulator()(torch.zeros(1, 1, 48, 48), 0, torch.arange(1))


def test_each_example_has_its_path_and_is_the_same_as_with_that_path_alone():
    paths = [archimedean((32, 32), coverage) for coverage in ("1/4", "1/8", "1/16")]
    both = simulator(path=paths)
    batch = both(IMAGES, 3, POSITIONS)
    chosen = [
        next(
            number
            for number, path in enumerate(paths)
            if torch.equal(path.dwell_map(), batch.scan.dwell[example, 0])
        )
        for example in range(len(IMAGES))
    ]
    assert len(set(chosen)) > 1
    for example, number in enumerate(chosen):
        alone = simulator(path=paths[number])(
            IMAGES[example : example + 1], 3, POSITIONS[example : example + 1]
        )
        ours = [tensor[example : example + 1] for tensor in flat(batch)]
        assert all(map(torch.equal, ours, flat(alone)))


@pytest.mark.parametrize("noise", NOISES[1:], ids=lambda noise: type(noise).__name__)
def test_a_fraction_of_the_scans_is_noisy(noise):
    scans = {
        fraction: ScanSimulator(
            PATH, noise, 0, augmentation=Augmentation(), noisy_fraction=fraction
        )
        for fraction in (0.0, 0.5, 1.0)
    }
    positions = torch.arange(40)
    images = IMAGES[:1].expand(40, 1, 32, 32)
    clean, some, all_noisy = (
        scans[fraction](images, 0, positions).scan.intensity.nan_to_num(9)
        for fraction in (0.0, 0.5, 1.0)
    )
    is_clean = (some == clean).flatten(1).all(1)
    is_noisy = (some == all_noisy).flatten(1).all(1)
    assert (is_clean ^ is_noisy).all()
    assert 10 < int(is_noisy.sum()) < 30
    plain = simulator(NoNoise())(images, 0, positions).scan.intensity.nan_to_num(9)
    assert torch.equal(clean, plain)


def test_paths_must_fit_together():
    with pytest.raises(ValueError, match="one shape"):
        simulator(path=[PATH, archimedean((16, 16), "1/8")])
    with pytest.raises(ValueError, match="noisy_fraction"):
        ScanSimulator(PATH, NoNoise(), 0, noisy_fraction=2)


def test_each_example_is_detected_in_one_of_several_ways():
    detections = [NoNoise(), ReferenceNoise(), Detector(40.0)]
    simulate = ScanSimulator(PATH, detections, 0)
    images, positions = IMAGES[:1].expand(60, -1, -1, -1), torch.arange(60)
    batch = simulate(images, 0, positions)
    choice = integers(example_keys(0, 0, positions, Stream.DETECTION), 3)
    assert choice.bincount().min() > 10
    for place, detection in enumerate(detections):
        alone = ScanSimulator(PATH, detection, 0)(images, 0, positions)
        one, other = (flat(b)[0][choice == place] for b in (batch, alone))
        assert torch.equal(one, other)


class TestCurriculum:
    """Two levels of 5 steps each: a denser path, doses from 500 and 200 on, then any."""

    DENSER = archimedean((32, 32), "1/4")
    OWN = (PATH, archimedean((32, 32), "1/5"))
    EASED = Curriculum(10, [DENSER], [[2, 2], [2, 1]], [500.0, 200.0], [0.0, 0.5])

    def scans(self, step, noise, curriculum=EASED, num=30):
        simulate = ScanSimulator(
            self.OWN, noise, 0, augmentation=Augmentation(), curriculum=curriculum
        )
        return simulate(IMAGES[:1].expand(num, -1, -1, -1), step, torch.arange(num))

    @pytest.mark.parametrize("noise", NOISES, ids=lambda noise: type(noise).__name__)
    def test_ends_in_the_scans_of_a_simulator_without_it_to_the_bit(self, noise):
        for step in (10, 11, 10**9):
            plain = flat(self.scans(step, noise, curriculum=None))
            assert all(map(torch.equal, flat(self.scans(step, noise)), plain))
        assert not torch.equal(
            flat(self.scans(9, noise))[1], flat(self.scans(9, noise, curriculum=None))[1]
        )

    def test_begins_with_denser_paths(self):
        own, denser = [path.dwell_map() for path in self.OWN], self.DENSER.dwell_map()
        for step, maps in ((0, [denser] * 2), (4, [denser] * 2), (5, [denser, own[1]]), (10, own)):
            drawn = integers(example_keys(0, step, torch.arange(30), Stream.PATH), 2)
            assert torch.equal(
                self.scans(step, NoNoise()).scan.dwell[:, 0], torch.stack(maps)[drawn]
            )

    def test_begins_with_higher_doses(self):
        """A dose that is above the least one stays."""
        eased = Curriculum(10, [], [[0, 1], [0, 1]], [500.0, 200.0])
        for step, least in ((0, 500.0), (5, 200.0), (10, 20.0)):
            for dose in (20.0, 300.0, 1000.0):
                found = flat(self.scans(step, Detector(dose), eased))
                expected = self.scans(step, Detector(max(dose, least)), curriculum=None)
                torch.testing.assert_close(found[0], flat(expected)[0])

    def test_begins_without_noise(self):
        eased = Curriculum(10, [], [[0, 1], [0, 1]], (), [0.0, 0.5])
        for step, fraction in ((0, 0.0), (5, 0.5), (10, 1.0)):
            found, clean, noisy = (
                flat(self.scans(step, noise, curriculum))[0]
                for noise, curriculum in (
                    (ReferenceNoise(), eased),
                    (NoNoise(), None),
                    (ReferenceNoise(), None),
                )
            )
            drawn = uniform(example_keys(0, step, torch.arange(30), Stream.IS_NOISY), (1,))[:, 0]
            is_noisy = (drawn < fraction)[:, None, None, None]
            assert torch.equal(found, torch.where(is_noisy, noisy, clean))

    @pytest.mark.parametrize("noise", NOISES, ids=lambda noise: type(noise).__name__)
    def test_each_example_may_have_a_step_of_its_own(self, noise):
        steps = torch.arange(30) % 12
        simulate = ScanSimulator(
            self.OWN, noise, 0, augmentation=Augmentation(), curriculum=self.EASED
        )
        mixed = flat(simulate(IMAGES[:1].expand(30, -1, -1, -1), steps, torch.arange(30)))
        for step in range(12):
            for tensor, other in zip(mixed, flat(self.scans(step, noise)), strict=True):
                assert torch.equal(tensor[steps == step], other[steps == step])

    def test_does_not_depend_on_how_the_step_is_given(self):
        for step in (0, 4, 5, 9, 10):
            given = self.scans(torch.tensor(step), ReferenceNoise())
            assert all(map(torch.equal, flat(given), flat(self.scans(step, ReferenceNoise()))))
