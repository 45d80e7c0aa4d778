"""Completes scanning transmission electron micrographs from partial scans.

    from stem_complete import ALRC, load_completer, scan

The names are loaded when first used, so that `import stem_complete` itself is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stem_complete import scan
    from stem_complete.data.scans import PathScan
    from stem_complete.inference import Completer, Completion, load_completer
    from stem_complete.losses import ALRC

__version__ = "0.1.0"

__all__ = ["ALRC", "Completer", "Completion", "PathScan", "__version__", "load_completer", "scan"]

_HOMES = {
    "ALRC": "stem_complete.losses",
    "Completer": "stem_complete.inference",
    "Completion": "stem_complete.inference",
    "PathScan": "stem_complete.data.scans",
    "load_completer": "stem_complete.inference",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name == "scan":
        return import_module("stem_complete.scan")
    raise AttributeError(f"module 'stem_complete' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
