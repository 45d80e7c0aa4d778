"""What clipping leaves of a batch with an outlier, on a network of one convolution."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from stem_complete.experiments import outlier_effects
from stem_complete.experiments.outlier import TITLES, configured, report
from stem_complete.experiments.outlier_effects import (
    CONTRASTS,
    METHODS,
    effects_of_outliers,
    with_hot_pixel,
)
from stem_complete.losses import ALRC
from stem_complete.training.supersampling import SupersamplingTask, images_of

STEPS = 66  # skipped steps begin after 64


class Images:
    """Forty smooth images in memory."""

    def __init__(self):
        rng = np.random.default_rng(0)
        coarse = rng.integers(60, 200, (40, 3, 4, 4))
        planes = np.kron(coarse, np.ones((8, 8), int)) + rng.integers(-9, 9, (40, 3, 32, 32))
        self.values = np.concatenate([np.zeros((40, 1), int), planes.reshape(40, -1)], 1)

    def indices(self, split):
        return np.arange(40)

    def read(self, indices):
        return self.values[indices].astype(np.uint8)


class SmallTask(SupersamplingTask):
    def __init__(self):
        def alrc():
            return ALRC(3, (0.9, 0.9), mu1_start=5, mu2_start=100, accumulate=True)

        super().__init__(power=4, weight=25, make_alrc=alrc)
        torch.manual_seed(0)
        self.network = nn.Conv2d(3, 3, 3, padding=1)


@pytest.fixture(scope="module")
def effects(tmp_path_factory):
    return effects_of_outliers(
        SmallTask(),
        Images(),
        configured(tmp_path_factory.mktemp("none")),
        steps=STEPS,
        num_batches=2,
    )


def of(effects, method, contrast, batch=1):
    (found,) = [e for e in effects if e[:3] == (method, batch, contrast)]
    return found


def test_every_method_sees_the_same_batches(effects):
    assert set(TITLES) == set(METHODS)
    assert len(effects) == len(METHODS) * (1 + len(CONTRASTS)) * 2
    for contrast in (None, *CONTRASTS):
        assert len({of(effects, method, contrast).loss_ratio for method in METHODS}) == 1


def test_without_clipping_the_fifteen_are_as_they_are_and_an_outlier_drowns_them(effects):
    ratios, lasts = [], []
    for contrast in CONTRASTS:
        found = of(effects, "none", contrast)
        assert found.fifteen == pytest.approx(1)
        ratios.append(found.loss_ratio)
        lasts.append(found.last)
    assert ratios == sorted(ratios)
    assert lasts[-1] > 10 > lasts[0]


def test_alrc_takes_from_the_outlier_alone(effects):
    plain, clipped = (of(effects, method, 0.0) for method in ("none", "alrc"))
    assert clipped.fifteen == pytest.approx(1)
    assert clipped.last < 0.1 * plain.last
    assert clipped.cosine > plain.cosine


@pytest.mark.parametrize("method", ["norm", "zclip"])
def test_one_factor_for_all_takes_from_all_alike(effects, method):
    plain, clipped = (of(effects, name, 0.0) for name in ("none", method))
    assert clipped.fifteen < 0.5
    assert clipped.last / plain.last == pytest.approx(clipped.fifteen, rel=1e-4)
    assert clipped.cosine == pytest.approx(plain.cosine, abs=1e-4)


def test_a_skipped_step_leaves_nothing(effects):
    found = of(effects, "skip", 0.0)
    assert found[4:] == (0, 0, 0)
    assert of(effects, "skip", None).fifteen == pytest.approx(1)


def test_what_was_tried_is_not_remembered(effects, monkeypatch, tmp_path):
    """A second batch is as if the first had had no outliers."""
    monkeypatch.setattr(outlier_effects, "CONTRASTS", ())
    config = configured(tmp_path)
    clean = effects_of_outliers(SmallTask(), Images(), config, steps=STEPS, num_batches=2)
    assert clean == [effect for effect in effects if effect.contrast is None]


def test_all_but_a_white_pixel_fades():
    examples = torch.from_numpy(Images().read(np.arange(2)))
    images, half, none = (
        images_of(each) for each in (examples, *(with_hot_pixel(examples, c) for c in (0.5, 0.0)))
    )
    means = images.mean((1, 2, 3), keepdim=True)
    hot = (none == 255).all(1)
    assert hot.sum((1, 2)).tolist() == [1, 1]
    dark = ~hot[:, None].expand_as(images)
    assert (none - means).abs()[dark].max() <= 0.5
    assert (half - means - (images - means) / 2).abs()[dark].max() <= 0.51


def test_the_report_is_written(effects, tmp_path):
    rows = report(effects, tmp_path).splitlines()
    assert len(rows) == 2 + len(METHODS)
    assert {path.name for path in tmp_path.iterdir()} == {"effects.csv", "table.md", "figure.png"}
    assert len((tmp_path / "effects.csv").read_text().splitlines()) == 1 + len(effects)
