"""Configs of earlier versions -> current keys, so that old runs and models still open."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from typing import Any

_log = logging.getLogger(__name__)

_AUGMENTATION = {
    "max_zoom": "max_zoom",
    "crop_px": "crop_px",
    "contrast": "contrast",
    "noisy_fraction": "noisy_fraction",
    "more_coverages": "coverages",
    "more_geometries": "geometries",
}
"""Keys that `scan` had, and what they are called in `augmentation`."""


def upgrade(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with the current keys; unknown keys stay as they are."""
    upgraded: dict[str, Any] = copy.deepcopy(dict(values))
    scan, data, model = (
        section if isinstance(section := upgraded.get(name), dict) else {}
        for name in ("scan", "data", "model")
    )
    moved = {new: scan.pop(old) for old, new in _AUGMENTATION.items() if old in scan}
    if scan.pop("augment", True) is False:  # which turned off all of it
        upgraded["augmentation"] = None
    elif moved and isinstance(augmentation := upgraded.get("augmentation", {}), dict):
        upgraded["augmentation"] = augmentation | moved
    definition = scan.pop("coverage_definition", None)
    if definition == "nominal":
        scan["geometry"] = "nominal"
    elif definition == "exact" and scan.get("geometry") == "nominal":
        scan["geometry"] = "archimedean"

    if synthetic := data.pop("synthetic", 0.0):
        _log.warning("data.synthetic = %s is no longer supported and left out", synthetic)

    # `ours` was the preset of one recipe, and the name of all recipes that are not the papers'.
    sizes = model.get("sizes")
    if isinstance(sizes, dict) and (mean_norm := sizes.pop("mean_norm", None)) is not None:
        model["norm"] = "mean" if mean_norm else "none"
    if model.get("preset") == "ours":
        model["preset"] = "any-dose"
    if upgraded.get("recipe") == "ours":
        upgraded["recipe"] = "any-dose" if model.get("preset") == "any-dose" else "compact"
    _part_generators(upgraded.get("optimizer"))
    return upgraded


def _part_generators(optimizer: Any) -> None:
    """Stages spoke of both generators as one group, `generator`."""
    stages = optimizer.get("stages") if isinstance(optimizer, dict) else None
    for stage in stages if isinstance(stages, list) else ():
        if not isinstance(stage, dict):
            continue
        factors, frozen = stage.get("factors"), stage.get("frozen")
        if isinstance(factors, dict):
            stage["factors"] = {_now(pattern): factor for pattern, factor in factors.items()}
        if isinstance(frozen, list):
            stage["frozen"] = [_now(pattern) for pattern in frozen]


def _now(pattern: Any) -> Any:
    return "*_generator" if pattern == "generator" else pattern
