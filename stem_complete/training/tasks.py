"""All tasks that a config may name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from stem_complete.config import Config, differences
from stem_complete.data.cifar10 import Cifar10
from stem_complete.data.examples import Examples
from stem_complete.data.store.store import MicrographStore
from stem_complete.errors import ConfigError
from stem_complete.training.classification import build_classification
from stem_complete.training.completion import build_completion
from stem_complete.training.supersampling import build_supersampling
from stem_complete.training.task import Task, TaskBuilder
from stem_complete.vocabulary import TaskName


class TaskKind(NamedTuple):
    """How to begin with a task.

    Attributes:
        build: Makes it.
        open: Opens the examples that `data.store` names.
        exports: Whether a trained network becomes a model that `complete` can use.
        not_used: Keys of the config that would change nothing.
    """

    build: TaskBuilder
    open: Callable[[Path], Examples]
    exports: bool = False
    not_used: tuple[str, ...] = ()


_OF_COMPLETION = (
    *("scan", "augmentation", "model", "loss.relative"),
    *("training.precision", "training.start", "training.freeze_mean_norm"),
)

TASKS: dict[TaskName, TaskKind] = {
    "completion": TaskKind(
        build_completion,
        MicrographStore,
        exports=True,
        not_used=("loss.root_above", "data.fraction", "resnet"),
    ),
    "supersampling": TaskKind(
        build_supersampling,
        Cifar10,
        not_used=(*_OF_COMPLETION, "resnet"),
    ),
    "classification": TaskKind(
        build_classification,
        Cifar10,
        not_used=(
            *_OF_COMPLETION,
            *("loss.weight", "loss.power", "loss.huber", "loss.root_above"),
            "training.num_pictures",
        ),
    ),
}


def build_named(config: Config) -> tuple[Task, Examples]:
    """The task that a config names, and its examples.

    Raises:
        StemCompleteError: Config and examples do not fit together.
    """
    check_used(config)
    return TASKS[config.task].build(config)


def check_used(config: Config) -> None:
    """Checks that a config sets no key that its task has no use for.

    Raises:
        ConfigError: It does.
    """
    not_used = TASKS[config.task].not_used
    for key in differences(config.model_dump(mode="json")):
        if any(f"{key}.".startswith(f"{unused}.") for unused in not_used):
            raise ConfigError(
                expected=f"keys that the task {config.task} uses",
                found=key,
                where=config.name,
                fix="leave it out",
            )


def open_examples(config: Config) -> Examples:
    """The examples that a run is trained on.

    Raises:
        StemCompleteError: They cannot be read.
    """
    return TASKS[config.task].open(config.data.store)
