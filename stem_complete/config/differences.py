"""In what a config differs from the defaults."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from textwrap import wrap
from typing import Any

from stem_complete.config.schema import Config, DataConfig

_LONGEST = 48
_MOST_ROWS = 10  # of a section; a sweep may have dozens of arms
_SHOWN_APART = {"name", "recipe", "storage", "data.store"}


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Each `section.field` of nested sections, with its value."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def differences(values: Mapping[str, Any]) -> dict[str, Any]:
    """`section.field` of a config's plain values -> its value, where it is not the default.

    The name of the run and the places of its data, which each run has of its own, are left out.
    """
    defaults = dict(flatten(Config(data=DataConfig(store="")).model_dump(mode="json")))
    return {
        key: value
        for key, value in flatten(values)
        if key not in _SHOWN_APART and not (key in defaults and defaults[key] == value)
    }


def in_lines(different: Mapping[str, Any], line_length: int = 78) -> list[str]:
    """Differences for a reader, a section a line: `training  steps=100 batch_size=4`.

    What makes a section too long for a part of a screen is left out, as the dots say.
    """
    sections: dict[str, list[str]] = {}
    for key, value in different.items():
        section, _, field = key.partition(".")
        text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
        text = f"{field or section}={text}"
        if len(text) > _LONGEST:
            text = f"{text[: _LONGEST - 3]}..."
        sections.setdefault(section, []).append(text)
    width = max(map(len, sections), default=0)
    lines = []
    for section, fields in sections.items():
        rows = wrap(" ".join(fields), line_length - width - 2, break_long_words=False)
        if len(rows) > _MOST_ROWS:
            rows[_MOST_ROWS - 1 :] = ["..."]
        lines += [f"{section if row is rows[0] else '':{width}}  {row}" for row in rows]
    return lines
