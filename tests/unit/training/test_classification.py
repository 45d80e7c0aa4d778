"""The classification task: how images vary, what is lost, what groups of weights there are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stem_complete.config import load_config
from stem_complete.training.classification import (
    ClassificationTask,
    _beyond,
    shifted_and_flipped,
    standardised,
)
from stem_complete.training.schedule import build_schedule
from stem_complete.training.supersampling import images_of

EXAMPLES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (6, 3073), np.uint8))
EXAMPLES[:, 0] %= 10
POSITIONS = torch.arange(6)


def task():
    torch.manual_seed(0)
    return ClassificationTask(width=2)


def test_variations_are_parts_of_padded_images_flipped_or_not():
    image = images_of(EXAMPLES)[:1]
    many = shifted_and_flipped(image.expand(300, -1, -1, -1), 0, 0, torch.arange(300))
    padded = F.pad(image, (4, 4, 4, 4))[0]
    parts = {
        part.numpy().tobytes(): (row, column, flipped)
        for row in range(9)
        for column in range(9)
        for flipped in (False, True)
        for crop in [padded[:, row : row + 32, column : column + 32]]
        for part in [crop.flip(2).contiguous() if flipped else crop.contiguous()]
    }
    found = [parts[each.contiguous().numpy().tobytes()] for each in many]
    for axis in (0, 1):
        assert {shift[axis] for shift in found} == set(range(9))
    assert 110 < sum(flipped for *_, flipped in found) < 190
    assert len(set(found)) > 100


def test_variations_follow_from_seed_step_and_position():
    images = images_of(EXAMPLES)
    whole = shifted_and_flipped(images, 1, 5, POSITIONS)
    half = shifted_and_flipped(images[3:], 1, 5, POSITIONS[3:])
    assert torch.equal(whole[3:], half)
    for other in ((2, 5, POSITIONS), (1, 6, POSITIONS), (1, 5, POSITIONS + 6)):
        assert not torch.equal(shifted_and_flipped(images, *other), whole)


def test_the_loss_is_cross_entropy_and_errors_are_only_measured():
    found = task()
    output = found(EXAMPLES, 3, POSITIONS)
    images = standardised(shifted_and_flipped(images_of(EXAMPLES), 0, 3, POSITIONS))
    logits = found.network(images)
    labels = EXAMPLES[:, 0].long()
    torch.testing.assert_close(output.loss, F.cross_entropy(logits, labels, reduction="none"))
    wrong = logits.argmax(1) != labels
    assert torch.equal(output.losses["zero_one"], wrong.float())


@pytest.mark.parametrize(("num", "expected"), [(1, [0, 1, 1, 1]), (2, [0, 0, 1, 1])])
def test_guesses_go_from_the_largest_logit(num, expected):
    logits = torch.tensor([[3.0, 1, 2], [3, 1, 2], [3, 1, 2], [torch.nan, 1, 2]])
    labels = torch.tensor([0, 2, 1, 0])
    assert _beyond(logits, labels, num).tolist() == expected


def test_validation_varies_nothing():
    found = task().eval()
    first, again = (found.validate(EXAMPLES, POSITIONS + shift) for shift in (0, 9))
    assert first.metrics.keys() == set(found.metric_names)
    for name, values in first.metrics.items():
        assert torch.equal(values, again.metrics[name])


def test_each_weight_is_in_one_group():
    found = task()
    groups = found.parameter_groups()
    assert list(groups) == ["stem", "block_64", "block_128", "block_256", "block_512", "head"]
    grouped = [id(parameter) for group in groups.values() for parameter in group]
    assert sorted(grouped) == sorted(map(id, found.parameters()))


@pytest.mark.parametrize("experiment", ["whole", *"abcd"])
def test_stages_of_the_texts_experiments_are_at_its_epochs(experiment):
    """In epochs of 391 steps; each arm trains or decays the block that it is called by."""
    names = list(task().parameter_groups())
    config = load_config(["classification", f"stability_{experiment}"])
    for arm, changes in config.sweep.arms.items():
        values = config.model_dump(mode="json")
        values["optimizer"]["stages"] = changes.get("optimizer", {"stages": [{"start": 0}]})[
            "stages"
        ]
        stages = build_schedule(type(config).model_validate(values), names).stages
        epochs = [stage.start / 391 for stage in stages]
        kind, _, block = arm.rpartition("-")
        others = {name for name in names if name != f"block_{block}"}
        rates = {name: [round(stage.rate(name), 9) for stage in stages] for name in names}
        frozen = [stage.freezes(names) for stage in stages]
        expected = {
            "outpost": ([0, 60, 120], [0.1, 0.01, 0.001], [0.1, 0.01, 0.001], []),
            "baseline": ([0], [0.1], [0.1], []),
            "a": ([0, 60, 120], [0.1, 0.01, 0.001], [0.1] * 3, []),
            "b": ([0, 60], [0.1] * 2, [0.1] * 2, [60]),
            "c": ([0, 60, 90], [0.1, 0.01, 0.01], [0.1] * 3, [90]),
            "d": ([0, 60, 120, 140], [0.1, 0.01, 0.001, 0.001], [0.1, 0.01, 0.001, 0.001], [140]),
        }[kind or arm]
        at, own, rest, freezes = expected
        assert epochs == at, arm
        assert [others if start in freezes else set() for start in at] == list(map(set, frozen)), (
            arm
        )
        for name, of_name in rates.items():
            assert of_name == (rest if name in others else own), (arm, name)
