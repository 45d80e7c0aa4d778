"""Reader of HyperSpy's signals, which lie alike in HDF5 (`.hspy`) and zarr (`.zspy`).

A tree has a group `Experiments`. Each of its groups is a signal, with an array `data`, groups
`axis-0`, `axis-1`, ..., and a group `metadata`; old files call that `mapped_parameters`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stem_complete.data.about import About, plain
from stem_complete.data.formats.axes import Axis
from stem_complete.data.formats.chunks import is_unwritten
from stem_complete.data.formats.signals import Contents

_ROOT = "Experiments"
_PARTS = ("General", "Signal", "Sample", "Acquisition_instrument")


def is_hyperspy(group: Any) -> bool:
    """Whether an HDF5 or zarr group is the root of such a tree."""
    if _ROOT not in group or _is_array(group[_ROOT]):
        return False
    signals = (group[_ROOT][name] for name in group[_ROOT])
    return any(not _is_array(signal) and "data" in signal for signal in signals)


def _is_array(node: Any) -> bool:
    return hasattr(node, "shape")


def offer_hyperspy(group: Any, contents: Contents) -> None:
    """Offers every signal of a tree."""
    for name in sorted(group[_ROOT]):
        with contents.apart(name):
            _offer_signal(name, group[_ROOT][name], contents)


def _offer_signal(name: str, signal: Any, contents: Contents) -> None:
    data: Any = None if _is_array(signal) or "data" not in signal else signal["data"]
    if not _is_array(data) or data.shape is None or is_unwritten(data):
        contents.skip(name, "a signal without data")
        return
    metadata: Any = next((signal[k] for k in ("metadata", "mapped_parameters") if k in signal), {})
    title = _text(_attributes(metadata, "General").get("title")) or name
    kind = _text(_attributes(metadata, "Signal").get("signal_type"))
    axes = [_axis(signal, number) for number in range(len(data.shape))]
    told = {part: _tree(metadata[part]) for part in _PARTS if part in metadata}
    contents.offer(title, data, axes=axes, kind=kind, about=about_signal(told))


def about_signal(metadata: Mapping[str, Any]) -> About:
    """What HyperSpy's metadata of a signal, as a tree, say of it."""
    general = plain(metadata.get("General") or {})
    title = general.pop("title", None) or ""
    parts = {"General": general}
    parts |= {name: plain(metadata.get(name)) for name in ("Sample", "Acquisition_instrument")}
    unit = plain(metadata.get("Signal") or {}).get("quantity") or ""
    return About(str(title), str(unit), {name: part for name, part in parts.items() if part})


def _axis(signal: Any, number: int) -> Axis:
    attributes: Mapping[str, Any] = next(
        (signal[k].attrs for k in (f"axis-{number}", f"axis_{number}") if k in signal), {}
    )
    navigate = attributes.get("navigate")
    return Axis(
        _text(attributes.get("name")),
        attributes.get("scale"),
        attributes.get("units"),
        None if navigate is None else bool(navigate),
    )


def _attributes(metadata: Any, name: str) -> Mapping[str, Any]:
    """Attributes of a part of the metadata; old files have all at the top."""
    if name in metadata:
        part: Mapping[str, Any] = metadata[name].attrs
        return part
    return getattr(metadata, "attrs", {})


def _tree(group: Any) -> dict[str, Any]:
    """A part of the metadata, whose arrays are left out."""
    values = {k: _text(v) if isinstance(v, str | bytes) else v for k, v in group.attrs.items()}
    parts = {k: _tree(group[k]) for k in group if not _is_array(group[k])}
    return values | parts


def _text(value: Any) -> str:
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value or "")
    return "" if text in ("None", "<undefined>", "_None_") else text
