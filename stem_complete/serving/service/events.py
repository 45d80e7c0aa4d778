"""Server-sent events, as they go over the line (HTML standard, section 9.2)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

KEEP_ALIVE = b": still here\n\n"
"""What proxies see that would close a silent connection, and clients pass over."""


def event(name: str, data: Mapping[str, Any], number: int | None = None) -> bytes:
    """One event; its data is a line of JSON, in which no line break can be."""
    lines = [f"event: {name}"]
    if number is not None:
        lines.append(f"id: {number}")
    lines.append(f"data: {json.dumps(data)}")
    return ("\n".join(lines) + "\n\n").encode()
