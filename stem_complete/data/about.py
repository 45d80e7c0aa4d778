"""What a file says of an image beside its pixels: title, unit, how it was acquired."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple


class About(NamedTuple):
    """What is known of an image beside its pixels.

    Attributes:
        title: What the source calls it, "" if it gives it no name.
        unit: Of the intensities, "" if unknown.
        metadata: How it was acquired, as JSON can hold it; of HyperSpy's tree the parts `General`,
            `Sample` and `Acquisition_instrument`.
    """

    title: str = ""
    unit: str = ""
    metadata: Mapping[str, Any] = {}


NOTHING = About()


def plain(value: Any) -> Any:
    """A value as JSON can hold it: not finite numbers become None, what it cannot hold text."""
    if isinstance(value, Mapping):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if hasattr(value, "tolist"):  # of numpy
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)
