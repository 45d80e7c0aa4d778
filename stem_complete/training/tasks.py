"""All tasks that a config may name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from stem_complete.config import Config
from stem_complete.data.cifar10 import Cifar10
from stem_complete.data.examples import Examples
from stem_complete.data.store.store import MicrographStore
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
    """

    build: TaskBuilder
    open: Callable[[Path], Examples]
    exports: bool = False


TASKS: dict[TaskName, TaskKind] = {
    "completion": TaskKind(build_completion, MicrographStore, exports=True),
    "supersampling": TaskKind(build_supersampling, Cifar10),
}


def build_named(config: Config) -> tuple[Task, Examples]:
    """The task that a config names, and its examples.

    Raises:
        StemCompleteError: Config and examples do not fit together.
    """
    return TASKS[config.task].build(config)


def open_examples(config: Config) -> Examples:
    """The examples that a run is trained on.

    Raises:
        StemCompleteError: They cannot be read.
    """
    return TASKS[config.task].open(config.data.store)
