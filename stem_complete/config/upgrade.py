"""Configs of earlier versions -> today's keys, so that old runs and models still open."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

_log = logging.getLogger(__name__)


class _Move(NamedTuple):
    """A key that has another place or form today."""

    new: str
    convert: Callable[[Any], Any] = lambda value: value


_MOVED: dict[str, _Move] = {}
"""By the old key, as in `scan.augment`."""

_REMOVED: dict[str, Any] = {"data.synthetic": 0.0}
"""Keys without a successor, and the value with which they changed nothing."""


def upgrade(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with today's keys. Keys that are today's already, or unknown, stay as they are."""
    upgraded: dict[str, Any] = copy.deepcopy(dict(values))
    for old, move in _MOVED.items():
        section, key = _section_of(upgraded, old)
        if section is not None and key in section:
            value = move.convert(section.pop(key))
            target, name = _section_of(upgraded, move.new, make=True)
            assert target is not None
            target[name] = value
    for old, neutral in _REMOVED.items():
        section, key = _section_of(upgraded, old)
        if section is not None and key in section:
            value = section.pop(key)
            if value != neutral:
                _log.warning("%s = %s is no longer supported and left out", old, value)
    return upgraded


def _section_of(
    values: dict[str, Any], path: str, *, make: bool = False
) -> tuple[dict[str, Any] | None, str]:
    """The section that holds the key at `path`, None if there is none; and the key."""
    *parents, key = path.split(".")
    section: Any = values
    for parent in parents:
        if make and isinstance(section, dict):
            section.setdefault(parent, {})
        section = section.get(parent) if isinstance(section, dict) else None
    return (section if isinstance(section, dict) else None), key
