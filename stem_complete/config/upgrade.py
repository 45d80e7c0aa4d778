"""Configs of earlier versions -> current keys, so that old runs and models still open."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from typing import Any

_log = logging.getLogger(__name__)

_MOVED = {
    "scan.max_zoom": "augmentation.max_zoom",
    "scan.crop_px": "augmentation.crop_px",
    "scan.contrast": "augmentation.contrast",
    "scan.noisy_fraction": "augmentation.noisy_fraction",
    "scan.more_coverages": "augmentation.coverages",
    "scan.more_geometries": "augmentation.geometries",
}
"""Old keys, and where they are now."""

_REMOVED: dict[str, Any] = {"data.synthetic": 0.0}
"""Keys without a successor, and the value with which they changed nothing."""


def upgrade(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with the current keys; unknown keys stay as they are."""
    upgraded: dict[str, Any] = copy.deepcopy(dict(values))
    for old, new in _MOVED.items():
        section, key = _section_of(upgraded, old)
        if section is not None and key in section:
            value = section.pop(key)
            target, name = _section_of(upgraded, new, make=True)
            if target is not None:
                target[name] = value
    for old, neutral in _REMOVED.items():
        section, key = _section_of(upgraded, old)
        if section is not None and key in section:
            value = section.pop(key)
            if value != neutral:
                _log.warning("%s = %s is no longer supported and left out", old, value)
    _upgrade_scan(upgraded)
    _upgrade_names(upgraded)
    return upgraded


def _upgrade_scan(values: dict[str, Any]) -> None:
    scan = values.get("scan")
    if not isinstance(scan, dict):
        return
    # It turned off everything that is now in `augmentation`.
    if scan.pop("augment", True) is False:
        values["augmentation"] = None
    definition = scan.pop("coverage_definition", None)
    if definition == "nominal":
        scan["geometry"] = "nominal"
    elif definition == "exact" and scan.get("geometry") == "nominal":
        scan["geometry"] = "archimedean"


def _upgrade_names(values: dict[str, Any]) -> None:
    """`ours` was the preset of one recipe, and the name of all recipes that are not the papers'."""
    model = values.get("model")
    preset = model.get("preset") if isinstance(model, dict) else None
    if isinstance(model, dict) and preset == "ours":
        model["preset"] = "any-dose"
    if values.get("recipe") == "ours":
        values["recipe"] = "any-dose" if preset in ("ours", "any-dose") else "compact"


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
