"""YAML files and key=value overrides -> `Config`."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from stem_complete.config.schema import Config
from stem_complete.config.upgrade import upgrade
from stem_complete.errors import ConfigError

BUNDLED = Path(__file__).parent.parent / "configs"
"""Folder of the configs that come with the package."""

CONFIG_FILE = "config.yaml"
"""Name of the resolved config in a run's folder."""

CHECKPOINTS_FOLDER = "checkpoints"
"""Name of the folder of checkpoints there."""

_log = logging.getLogger(__name__)


def load_config(files: Sequence[str | Path], overrides: Sequence[str] = ()) -> Config:
    """Config from YAML files, later ones on top, then `section.field=value` overrides.

    Args:
        files: Paths, or names of bundled configs, such as `compact`.
        overrides: Changes on top of the files.

    Raises:
        ConfigError: A file or override cannot be read, or a key or value is not valid.

    The config in a run's own folder means the run that lies there, also if that was moved.
    """
    merged: dict[str, Any] = {}
    for file in map(find_config, files):
        _merge(merged, _where_it_lies(file, read_yaml(file)))
    for override in overrides:
        _merge(merged, _parse_override(override))
    return validate_config(merged, " + ".join(map(str, files)) or "config", overrides)


def _where_it_lies(file: Path, values: dict[str, Any]) -> dict[str, Any]:
    """A config with the name and storage of the run in whose folder it is, if it is in one."""
    folder = file.absolute().parent
    if (
        file.name != CONFIG_FILE
        or not (folder / CHECKPOINTS_FOLDER).is_dir()
        or "storage" not in values
    ):
        return values
    said = Path(str(values["storage"])) / str(values.get("name"))
    if said == folder or said.resolve() == folder.resolve():
        return values
    _log.warning("the run in %s was in %s before; it goes on where it is now", folder, said)
    return values | {"name": folder.name, "storage": str(folder.parent)}


def find_config(name: str | Path) -> Path:
    """The file at this path, or else the bundled config of this name.

    A bundled config may be called `compact`, `compact.yaml` or `configs/compact.yaml`.

    Raises:
        ConfigError: It is neither.
    """
    path = Path(name)
    bundled = BUNDLED / f"{path.name.removesuffix('.yaml')}.yaml"
    if path.exists() and not path.is_dir():
        return path
    if str(path.parent) in (".", "configs") and bundled.is_file():
        return bundled
    names = ", ".join(sorted(file.stem for file in BUNDLED.glob("*.yaml")))
    raise ConfigError(
        expected=f"a YAML file, or a bundled config ({names})",
        found="a folder" if path.is_dir() else "no such file",
        where=path,
        fix="check the path",
    )


def expand_sweep(config: Config) -> list[Config]:
    """One config per chosen arm and seed of `config.sweep`, named `<arm>-seed<k>`.

    Their run folders lie in the sweep's own: `<storage>/<name>/<arm>-seed<k>`.
    """
    if config.sweep is None:
        return [config]
    runs = []
    for seed in config.sweep.seeds:
        for arm, changes in config.sweep.chosen_arms().items():
            values = config.model_dump(mode="json", exclude={"sweep"})
            _merge(values, changes)
            _merge(values, {"training": {"seed": seed}})
            values |= {"name": f"{arm}-seed{seed}", "storage": str(config.run_folder)}
            runs.append(validate_config(values, where=f"sweep.arms.{arm}"))
    return runs


def shortened(config: Config, fraction: float) -> Config:
    """The config with a fraction of its steps, and as many validations and checkpoints.

    Places and lengths that are fractions of the run become shorter with it; those in whole steps
    stay, and so do those of a sweep's arms.

    Args:
        config: A run, or a sweep of runs.
        fraction: In (0, 1].

    Raises:
        ConfigError: It is not.
    """
    if not 0 < fraction <= 1:
        raise ConfigError(
            expected="a fraction above 0 and up to 1",
            found=f"{fraction:g}",
            where="--fraction",
            fix="give one such as 0.1",
        )
    training = config.training.model_dump(mode="json")
    keys = ("steps", "validate_every_steps", "checkpoint_every_steps")
    shorter = {key: max(round(fraction * training[key]), 1) for key in keys}
    values = config.model_dump(mode="json")
    _merge(values, {"training": shorter})
    return validate_config(values, where="--fraction")


def validate_config(values: Mapping[str, Any], where: str, overrides: Sequence[str] = ()) -> Config:
    """`Config` from plain values, also an earlier version's.

    Args:
        values: All that differ from the defaults.
        where: Their origin, for errors.
        overrides: Changes that are among them. An error names those that it is about.

    Raises:
        ConfigError: A key or value is not valid.
    """
    try:
        return Config.model_validate(upgrade(values))
    except ValidationError as error:
        first = error.errors()[0]
        key, known = _resolve(first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        where = " + ".join([where, *(o for o in overrides if _is_about(o, key, message))])
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        if first["type"] == "extra_forbidden":
            raise ConfigError(
                expected=f"known keys ({', '.join(known)})",
                found=f"unknown key {key!r}{more}",
                where=where,
                fix="correct or remove it",
            ) from None
        found = "nothing" if first["type"] == "missing" else repr(first["input"])
        if first["type"] == "value_error":
            found = "a value that does not fit"
        raise ConfigError(
            expected=f"a valid {key}", found=f"{found}{more}", where=where, fix=message
        ) from None


def _is_about(override: str, key: str, message: str) -> bool:
    """Whether a change sets a key, a part of it, its section, or what a message names."""
    changed = override.partition("=")[0]
    return (
        f"{key}.".startswith(f"{changed}.") or changed.startswith(f"{key}.") or changed in message
    )


def read_yaml(file: Path) -> dict[str, Any]:
    """Plain values of a config file, unchecked.

    Raises:
        ConfigError: It cannot be read, or is no mapping.
    """
    try:
        values = yaml.safe_load(file.read_text())
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(
            expected="YAML", found=str(error), where=file, fix="correct it, or restore it"
        ) from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(
            expected="a mapping of sections",
            found=f"a {type(values).__name__}",
            where=file,
            fix="write the name of each section, a colon, and its fields indented below",
        )
    return values


def _parse_override(override: str) -> dict[str, Any]:
    path, separator, text = override.partition("=")
    if not separator or not path:
        raise ConfigError(
            expected="section.field=value",
            found=repr(override),
            where="override",
            fix="write for example training.steps=1000",
        )
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(
            expected="a YAML value",
            found=str(getattr(error, "problem", None) or error).removeprefix("found "),
            where=override,
            fix="close its brackets and quotes, and put quotes around all of it, and around names "
            "that begin with *",
        ) from None
    for key in reversed(path.split(".")):
        value = {key: value}
    return dict(value)


def _merge(base: dict[str, Any], change: Mapping[str, Any]) -> None:
    for key, value in change.items():
        # `kind` chooses the type of a section, so a new kind replaces all of the old one's keys.
        same_kind = isinstance(value, Mapping) and value.get("kind") in (
            None,
            (base.get(key) or {}).get("kind") if isinstance(base.get(key), Mapping) else None,
        )
        if isinstance(value, Mapping) and isinstance(base.get(key), dict) and same_kind:
            _merge(base[key], value)
        else:
            base[key] = dict(value) if isinstance(value, Mapping) else value


def _resolve(location: tuple[int | str, ...]) -> tuple[str, list[str]]:
    """The key that users write for a pydantic `location`, and all keys of the section it is in.

    Pydantic puts the `kind` of a section that has several kinds into the location, as a level of
    its own.
    """
    written: list[str] = []
    sections: list[type[BaseModel]] = [Config]
    holder: type[BaseModel] = Config
    for part in location:
        if len(sections) > 1:
            sections = [s for s in sections if s.model_fields["kind"].default == part]
            continue
        written.append(str(part))
        holder = sections[0] if sections else holder
        field = holder.model_fields.get(str(part))
        candidates = [] if field is None else [field.annotation, *get_args(field.annotation)]
        sections = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
    return ".".join(written) or "config", list(holder.model_fields)
