"""Tasks by their names in configs."""

from __future__ import annotations

import pytest

from stem_complete.config import load_config
from stem_complete.errors import ConfigError
from stem_complete.training import TASKS, check_used
from stem_complete.vocabulary import TaskName


@pytest.mark.parametrize(
    ("config", "change"),
    [
        ("compact", "loss.root_above=50"),
        ("supersampling", "scan.coverage=1/10"),
        ("supersampling", "loss.relative=true"),
        ("supersampling", "training.precision=bf16"),
        ("supersampling", "training.start=released"),
        ("supersampling", "augmentation=null"),
        ("supersampling", "resnet.width=8"),
        ("compact", "data.fraction=0.5"),
        ("classification", "loss.power=4"),
        ("classification", "training.freeze_mean_norm=0.9"),
    ],
)
def test_a_key_that_would_change_nothing_is_refused(config, change):
    key = change.partition("=")[0]
    with pytest.raises(ConfigError, match=f"found {key}; leave it out"):
        check_used(load_config([config], [change]))


@pytest.mark.parametrize(
    ("config", "changes"),
    [
        ("compact", []),
        ("supersampling", ["loss.root_above=50", "loss.huber=true", "training.seed=3"]),
        ("classification", ["resnet.width=8", "data.fraction=0.1", "loss.alrc={}"]),
    ],
)
def test_all_others_are_taken(config, changes):
    check_used(load_config([config], changes))


def test_every_name_has_a_task():
    assert set(TASKS) == set(TaskName.__args__)
