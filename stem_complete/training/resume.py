"""Whether a run may go on from its newest checkpoint, and what has changed since."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from stem_complete.config import Config, flatten, validate_config
from stem_complete.data.examples import Examples, ExamplesRecord, check_recorded
from stem_complete.errors import ConfigError
from stem_complete.training.checkpoint import Checkpoints
from stem_complete.training.checkpoint_folder import examples_of


class Before(NamedTuple):
    """What a run's newest checkpoint says of it.

    Attributes:
        step: Optimizer steps taken.
        metrics: Latest metrics.
        folder: Of the checkpoint.
        changed: Settings that have changed since, each as `key: old -> new`.
        examples: What the run is trained on; None if the checkpoint does not say.
    """

    step: int
    metrics: dict[str, float]
    folder: str
    changed: list[str]
    examples: ExamplesRecord | None


def find_before(config: Config, examples: Examples) -> Before | None:
    """What the run has done before; None if it has no checkpoint. Weights are not read.

    Raises:
        ConfigError: It may not go on with this config or these examples.
        ArtifactError: Its checkpoints are of another format.
        StorageError: The storage cannot be read.
    """
    newest = next(iter(Checkpoints(config.run_folder).readable().items()), None)
    if newest is None:
        return None
    folder, metadata = newest
    check_same_run(config, metadata["config"], folder)
    record = examples_of(metadata)
    if record is not None:
        check_recorded(examples, record, folder)
    changed = changed_settings(config, metadata["config"], folder)
    return Before(metadata["step"], metadata["metrics"], str(folder), changed, record)


def check_same_run(config: Config, before: Mapping[str, Any], where: object) -> None:
    """Checks that what the order of examples and the shape of the state depend on is the same.

    How examples are simulated may have changed, so that a run can end on other scans than it began
    with.

    Args:
        config: The run as it is to go on.
        before: Config of its checkpoint, as plain values.
        where: The checkpoint.

    Raises:
        ConfigError: It has changed.
    """
    then, now = _identity(validate_config(before, where=str(where))), _identity(config)
    for key, value in then.items():
        if now[key] != value:
            raise ConfigError(
                expected=f"{key} = {value}, as this run began with",
                found=str(now[key]),
                where=where,
                fix="change it back, or start a new run with another name",
            )


def changed_settings(config: Config, before: Mapping[str, Any], where: object) -> list[str]:
    """Settings that are not those of the checkpoint, each as `key: old -> new`.

    A key that has another name since then did not change. Arguments are those of `check_same_run`.
    """
    old = _settings(validate_config(before, where=str(where)))
    new = _settings(config)
    return [
        f"{key}: {old.get(key, 'none')} -> {new.get(key, 'none')}"
        for key in old | new
        if old.get(key) != new.get(key)
    ]


def _settings(config: Config) -> dict[str, str]:
    """Settings by `section.key`, as they are written in a YAML file or on the command line."""
    settings = flatten(config.model_dump(mode="json"))
    return {key: v if isinstance(v, str) else json.dumps(v) for key, v in settings}


def _identity(config: Config) -> dict[str, Any]:
    """What makes a run this run, by key."""
    sections = {"model": config.model, "resnet": config.resnet, "loss": config.loss}
    return {
        "data.fraction": config.data.fraction,
        "training.seed": config.training.seed,
        "training.batch_size": config.batch_size,
        "training.weight_average": config.training.weight_average,
        "training.gradient_clipping": config.training.gradient_clipping.kind,
        "optimizer.name": config.optimizer.name,
        "optimizer.options": config.optimizer.options,
        **{
            f"{name}.{key}": value
            for name, section in sections.items()
            for key, value in section.model_dump(mode="json").items()
        },
    }
