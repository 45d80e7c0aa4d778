"""Whether a run may go on from its newest checkpoint, and what has changed since."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from stem_complete.config import Config, validate_config
from stem_complete.errors import ConfigError


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
    old = dict(_flatten(validate_config(before, where=str(where)).model_dump(mode="json")))
    new = dict(_flatten(config.model_dump(mode="json")))
    return [
        f"{key}: {old.get(key, 'none')} -> {new.get(key, 'none')}"
        for key in old | new
        if old.get(key) != new.get(key)
    ]


def _identity(config: Config) -> dict[str, Any]:
    """What makes a run this run, by key."""
    sections = {"model": config.model, "loss": config.loss}
    return {
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


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Settings by `section.key`, as they are written in a YAML file or on the command line."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value)
