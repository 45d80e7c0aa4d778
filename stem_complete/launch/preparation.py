"""What is settled of a run before any worker starts: its places, its workers, whether it can be."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

import torch
from upath import UPath

from stem_complete.config import Config, validate_config
from stem_complete.data.examples import check_trainable
from stem_complete.distributed import under_torchrun
from stem_complete.errors import ConfigError
from stem_complete.inference import model_folder
from stem_complete.inference.card import ArchitectureCard, read_card
from stem_complete.training import Checkpoints, check_used, open_examples
from stem_complete.training.start import start_folder
from stem_complete.vocabulary import RELEASED

AnyPath = TypeVar("AnyPath", Path, UPath)


def prepared(config: Config, *, local: bool) -> Config:
    """The config with absolute paths and the number of workers that there are.

    Args:
        config: A run, or a sweep of runs.
        local: Whether it is trained in this process alone.

    Raises:
        ConfigError: A submitted job has a relative path, or the workers do not fit the config.
    """
    return _with_workers(_with_absolute_paths(config), local=local)


def _with_workers(config: Config, *, local: bool) -> Config:
    """One worker if `local`, and all of torchrun's unless the config has a number of its own."""
    scaling = config.scaling
    num_workers = scaling.num_workers
    if local:
        num_workers = 1
    elif under_torchrun() and num_workers == 1:
        num_workers = int(os.environ["WORLD_SIZE"])
    if num_workers == scaling.num_workers:
        return config
    values = config.model_dump(mode="json")
    values["scaling"] |= {"num_workers": num_workers, "min_workers": None}
    return validate_config(values, where=f"{config.name} on {num_workers} workers")


def _with_absolute_paths(config: Config) -> Config:
    """The config with absolute paths, as workers run in other folders.

    A submitted job runs in a copy of its folder that is thrown away, so it may have no others.
    """
    submitted = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    storage = UPath(config.storage)
    for key, path in (("storage", storage), ("data.store", config.data.store)):
        if submitted and isinstance(path, Path) and not path.is_absolute():
            raise ConfigError(
                expected=f"an absolute path for {key} in a submitted job",
                found=str(path),
                where=config.name,
                fix=f"add {key}=/a/folder/that/all/nodes/see",
            )
    data = config.data.model_copy(update={"store": _absolute(config.data.store)})
    start = config.training.start
    if start not in (None, RELEASED):
        start = str(_absolute(model_folder(start)))
    training = config.training.model_copy(update={"start": start})
    return config.model_copy(
        update={"storage": str(_absolute(storage)), "data": data, "training": training}
    )


def _absolute(path: AnyPath) -> AnyPath:
    """A path that does not lead through a folder which may be removed, as `folder/../runs` does."""
    return path.resolve() if ".." in path.parts else path.absolute()


def check(config: Config) -> None:
    """Finds, before any worker starts, what would make each of them fail.

    Raises:
        StemCompleteError: The config cannot be run.
    """
    check_used(config)
    check_trainable(open_examples(config), config.data.store)
    if config.training.start is not None and not Checkpoints(config.run_folder).folders():
        _check_start(config, start_folder(config.training.start))
    if config.scaling.use_gpu and not torch.cuda.is_available() and "RAY_ADDRESS" not in os.environ:
        raise ConfigError(
            expected="a CUDA device (scaling.use_gpu is true)",
            found="none",
            where=config.name,
            fix="add scaling.use_gpu=false",
        )


def _check_start(config: Config, folder: Path) -> None:
    """Checks that a run can begin with the weights of a model."""
    card = read_card(folder)
    for what, found, expected in (
        ("encoding", card.encoding, config.model.encoding),
        ("architecture", card.architecture, ArchitectureCard.of(config)),
    ):
        if found != expected:
            raise ConfigError(
                expected=f"training.start with the {what} of the config: {expected}",
                found=str(found),
                where=folder,
                fix=f"train with the config of its recipe, {card.recipe}",
            )
