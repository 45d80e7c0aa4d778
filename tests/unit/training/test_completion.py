"""What is trained: parts of micrographs, by networks of any size that fits."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from stem_complete.config import Config
from stem_complete.data.formats.path_files import PathNotes, write_path
from stem_complete.errors import ConfigError
from stem_complete.scan import GEOMETRIES, PartialScan, archimedean, drawn_archimedean
from stem_complete.training import build_task
from stem_complete.training.simulation import build_simulator
from stem_complete.vocabulary import Geometry

IMAGES = torch.rand((2, 1, 64, 64), generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture
def any_dose(small_config: Callable[..., Config]) -> Callable[..., Config]:
    """Makes configs of the preset `any-dose`."""
    return partial(small_config, "model.preset=any-dose", "model.encoding=waves", smallest=False)


def test_parts_are_scanned_and_completed(any_dose: Callable[..., Config]) -> None:
    task = build_task(any_dose("augmentation.crop_px=32"), (64, 64))
    batch = task.simulator(IMAGES, 3, torch.arange(2))
    assert batch.truth.shape == batch.scan.dwell.shape == (2, 1, 32, 32)
    full, half, *_ = task.complete(batch)
    assert full.shape == (2, 1, 32, 32)
    assert half.shape == (2, 1, 16, 16)
    # An example's part depends on its place, not on its company.
    alone = task.simulator(IMAGES[1:], 3, torch.tensor([1]))
    torch.testing.assert_close(alone.truth, batch.truth[1:])
    later = task.simulator(IMAGES, 4, torch.arange(2))
    assert not torch.allclose(later.truth, batch.truth)


def test_training_sees_every_geometry_at_every_coverage(
    small_config: Callable[..., Config],
) -> None:
    config = small_config("augmentation.geometries=[drawn]", "augmentation.coverages=[1/20]")
    task = build_task(config, (64, 64))
    maps = [
        draw((64, 64), coverage).dwell_map()
        for draw in (archimedean, drawn_archimedean)
        for coverage in (1 / 10, 1 / 20)
    ]
    torch.testing.assert_close(task.simulator.dwell[:, 0], torch.stack(maps))
    validation = build_simulator(config, (64, 64), augment=False, seed=0)
    torch.testing.assert_close(validation.dwell[:, 0], maps[0][None])


def test_a_drawn_spiral_may_be_all_there_is(small_config: Callable[..., Config]) -> None:
    task = build_task(small_config("scan.geometry=drawn"), (64, 64))
    drawn = drawn_archimedean((64, 64), 1 / 10).dwell_map()
    torch.testing.assert_close(task.simulator.dwell[:, 0], drawn[None])


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_config_names_any_geometry(
    geometry: Geometry, small_config: Callable[..., Config]
) -> None:
    config = small_config(f"scan.geometry={geometry}", "scan.coverage=1/8")
    simulator = build_simulator(config, (64, 64), augment=False, seed=0)
    expected = GEOMETRIES[geometry]((64, 64), 1 / 8).dwell_map()
    torch.testing.assert_close(simulator.dwell[0, 0], expected)
    scan = simulator(IMAGES, 0, torch.arange(2)).scan
    assert (scan.intensity.isfinite() == (scan.dwell > 0)).all()


def test_a_config_names_a_path_of_ones_own(
    tmp_path: Path, small_config: Callable[..., Config]
) -> None:
    path = archimedean((64, 64), 1 / 8)
    file = tmp_path / "path.csv"
    write_path(file, path, PathNotes("mine"))
    config = small_config(f"scan.geometry={file}", "scan.coverage=1/10")
    simulator = build_simulator(config, (64, 64), augment=False, seed=0)
    torch.testing.assert_close(simulator.dwell[0, 0], 0.8 * path.dwell_map(), atol=1e-4, rtol=1e-3)
    with pytest.raises(ConfigError, match=r"over an image of 32 x 64 px .* one over 64 x 64 px"):
        build_simulator(config, (32, 64), augment=False, seed=0)


def test_sizes_of_the_preset_can_be_changed(any_dose: Callable[..., Config]) -> None:
    task = build_task(any_dose("model.sizes.spectral_blocks=0"), (64, 64))
    assert len(task.network.generator.inner.spectral_blocks) == 0


def test_relative_losses_count_errors_in_the_networks_unit(
    any_dose: Callable[..., Config],
) -> None:
    losses = {}
    for relative in (False, True):
        task = build_task(any_dose(f"loss.relative={relative}"), (64, 64))
        batch = task.simulator(IMAGES, 3, torch.arange(2))
        completed = task.complete(batch)
        losses[relative] = torch.stack(list(task.losses(completed, batch.truth).values()))
    torch.testing.assert_close(losses[True] * completed.unit**2, losses[False])
    error = (completed.full - batch.truth) / completed.unit[:, None, None, None]
    torch.testing.assert_close(losses[True][0], task.weight * error.square().mean((1, 2, 3)))
    # A scan of twice the contrast has errors twice as large.
    twice = batch._replace(
        scan=PartialScan(2 * batch.scan.intensity, batch.scan.dwell), truth=2 * batch.truth
    )
    outer = task.losses(task.complete(twice), twice.truth)["outer"]
    torch.testing.assert_close(outer, losses[True][0], rtol=1e-3, atol=0)


def test_losses_relative_to_the_first_completion_are_one_without_a_correction(
    any_dose: Callable[..., Config],
) -> None:
    task = build_task(any_dose("loss.relative=first", "loss.weight=1"), (64, 64))
    batch = task.simulator(IMAGES, 3, torch.arange(2))
    completed, encoded = task.complete(batch), task.encode(batch.scan)
    without = completed._replace(full=encoded.offset, half=encoded.at_half_size().offset)
    for losses in task.losses(without, batch.truth).values():
        torch.testing.assert_close(losses, torch.ones(2), rtol=1e-4, atol=0)
    perfect = completed._replace(full=batch.truth)
    assert (task.losses(perfect, batch.truth)["outer"] == 0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("augmentation.crop_px=40", "a multiple of 32 up to the store's 64 px, found 40 px"),
        ("augmentation.crop_px=96", "a multiple of 32 up to the store's 64 px, found 96 px"),
        ("model.sizes.inner_widths=[8]", "sizes that fit the preset any-dose, found inner_widths"),
        (
            "scan={coverage: 1, geometry: drawn}",
            "that every geometry can have, found coverage 1 is more than a drawn spiral can have",
        ),
    ],
)
def test_what_does_not_fit_is_refused(
    any_dose: Callable[..., Config], change: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        build_task(any_dose(change), (64, 64))


class TestCurriculum:
    def eased(self, small_config: Callable[..., Config], text: str, *overrides: str) -> Config:
        return small_config(
            "training.steps=100",
            f"augmentation.curriculum={{{text}}}",
            "scan.coverage=1/16",
            *overrides,
        )

    def test_coverage_falls_by_equal_ratios_to_the_configs_own(
        self, small_config: Callable[..., Config]
    ) -> None:
        config = self.eased(small_config, "until: 0.4, levels: 4, coverage: 1/4")
        task = build_task(config, (64, 64))
        positions = torch.arange(2)
        for step, coverage in ((0, 4), (9, 4), (10, 32**0.5), (20, 8), (30, 128**0.5), (40, 16)):
            dwell = task.simulator(IMAGES, step, positions).scan.dwell
            torch.testing.assert_close(dwell.mean(), torch.tensor(1 / coverage), rtol=1e-3, atol=0)
        for step in (0, 40):
            dwell = task.validation(IMAGES, step, positions).scan.dwell
            torch.testing.assert_close(dwell.mean(), torch.tensor(1 / 16), rtol=1e-3, atol=0)
        # What the error map is calibrated on is no part of a run, and has no steps.
        calibrated = build_simulator(config, (64, 64), augment=True, seed=1)
        assert calibrated.curriculum is None

    def test_coverages_that_are_dense_enough_stay(
        self, small_config: Callable[..., Config]
    ) -> None:
        more = "augmentation.geometries=[fermat]", "augmentation.coverages=[1/3, 1/9]"
        eased = build_simulator(
            self.eased(small_config, "levels: 2, coverage: 1/4", *more),
            (64, 64),
            augment=True,
            seed=0,
            easier_first=True,
        )
        assert eased.curriculum is not None
        # Own paths: two geometries at 1/16, 1/3 and 1/9; then each at 1/4 and at 1/8.
        assert eased.curriculum.stand_ins == [[6, 1, 6, 8, 4, 8], [7, 1, 7, 9, 4, 9]]
        means = [float(path.dwell_map().mean()) for path in eased.curriculum.paths]
        assert means == pytest.approx([1 / 4, 1 / 8] * 2, rel=1e-3)

    def test_doses_and_the_noisy_fraction_change_with_it(
        self, small_config: Callable[..., Config]
    ) -> None:
        config = self.eased(
            small_config,
            "levels: 2, dose_electrons_per_px: 400, noisy_fraction: 0.5",
            "scan.noise={kind: detector, dose_electrons_per_px: [4, 50]}",
            "augmentation.noises=[{kind: detector, dose_electrons_per_px: 100}]",
        )
        eased = build_task(config, (64, 64)).simulator.curriculum
        assert eased.doses == pytest.approx([400, 40])
        assert eased.noisy_fractions == [0.5, 0.75]
        assert eased.steps == 50

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("coverage: 1/20", r"coverage that is easier than the config's own, found 0.05, and 0"),
            ("dose_electrons_per_px: 9", "found 9, and no such noise"),
            ("noisy_fraction: 1.0", "found 1, and 1"),
            ("until: 0.5", "needs a coverage"),
        ],
    )
    def test_one_that_eases_nothing_is_refused(
        self, small_config: Callable[..., Config], text: str, message: str
    ) -> None:
        with pytest.raises(ConfigError, match=message):
            build_task(self.eased(small_config, text), (64, 64))
