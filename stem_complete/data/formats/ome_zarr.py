"""Reader of zarr 2 and 3, folders and zipped: OME-Zarr, HyperSpy, and plain arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from zipfile import ZipFile

from stem_complete.data.about import About
from stem_complete.data.formats.axes import Axis
from stem_complete.data.formats.chunks import is_unwritten
from stem_complete.data.formats.damage import DamagedError
from stem_complete.data.formats.hdf5 import pixel_axes
from stem_complete.data.formats.hyperspy_trees import is_hyperspy, offer_hyperspy
from stem_complete.data.formats.ome_zarr_writer import OWN
from stem_complete.data.formats.signals import Contents
from stem_complete.errors import DataError

ZARR_FILES = ("zarr.json", ".zgroup", ".zarray")
"""One of these is in every folder of a hierarchy."""


def read_zarr(path: Path, contents: Contents) -> None:
    """Offers every array of a zarr hierarchy; of pyramids, wherever they are, the full size."""
    import zarr
    from zarr.storage import ZipStore

    from stem_complete.data.store.layout import FORMAT

    if path.is_dir():
        node = zarr.open(path, mode="r")
        if node.attrs.asdict().get("format") == FORMAT:
            raise DataError(
                expected="micrographs",
                found="a store of ingested crops, from which nothing is ingested again",
                where=path,
                fix="ingest the files that it was made from",
            )
        _offer_node("", node, contents)
        return
    root = _root(path)
    with ZipStore(path, mode="r") as zipped:
        _offer_node("", zarr.open(zipped, path=root, mode="r"), contents)


def _root(path: Path) -> str:
    """Where in a ZIP file the hierarchy begins: at its top, or in a folder that was zipped."""
    with ZipFile(path) as zipped:
        places = [PurePosixPath(name) for name in zipped.namelist()]
    roots = [place.parent.parts for place in places if place.name in ZARR_FILES]
    root = min(roots, key=len, default=())
    return "/".join(root)


def _offer_node(name: str, node: Any, contents: Contents) -> None:
    """Offers what is at and below a node: an array, an image in a pyramid, or a group of these.

    The roots of bioformats2raw and plates are groups of groups of images.
    """
    import zarr

    if isinstance(node, zarr.Array):
        if len(node.shape) < 2:
            contents.pass_over(name, node.shape)
        else:
            _offer_array(name, node, contents)
        return
    attributes: dict[str, Any] = dict(node.attrs.asdict())
    ome = attributes.get("ome", attributes)
    if "image-label" in ome or name.split("/")[-1] == "labels":
        contents.skip(name, "labels of segments")
    elif ome.get("multiscales"):
        _offer_pyramids(name, node, ome, contents)
    elif is_hyperspy(node):
        for _, item in node.members(max_depth=None):
            if isinstance(item, zarr.Array):
                _check_chunks(item)
        offer_hyperspy(node, contents)
    else:
        for path in _listed(node, ome):
            if path not in node:
                contents.skip(f"{name}/{path}".lstrip("/"), "listed, but not there")
        for key, item in _members(node):
            member = f"{name}/{key}".lstrip("/")
            if isinstance(item, Exception):
                contents.damaged[member] = item
            else:
                with contents.apart(member):
                    _offer_node(member, item, contents)


def _listed(group: Any, ome: Mapping[str, Any]) -> list[str]:
    """Wells of a plate, images of a well or of a conversion, as the attributes list them."""
    if "bioformats2raw.layout" in ome and "OME" in group:
        attributes = group["OME"].attrs.asdict()
        return list(attributes.get("ome", attributes).get("series", []))
    wells = (ome.get("plate") or {}).get("wells", [])
    return [each["path"] for each in [*wells, *(ome.get("well") or {}).get("images", [])]]


def _members(group: Any) -> list[tuple[str, Any]]:
    """Arrays and groups in a group by name; in place of a damaged one, what opening it raises.

    Of folders, each is opened by itself, and links to folders that it lies in are passed over.
    """
    import zarr
    from zarr.storage import LocalStore

    if not isinstance(group.store, LocalStore):
        return sorted(group.members(max_depth=0))
    members: list[tuple[str, Any]] = []
    here = group.store.root / group.path
    for folder in sorted(here.iterdir()):
        if not is_zarr(folder) or here.resolve().is_relative_to(folder.resolve()):
            continue
        try:
            members.append((folder.name, zarr.open(folder, mode="r")))
        except Exception as error:
            members.append((folder.name, error))
    return members


def is_zarr(folder: Path) -> bool:
    """Whether it is the folder of a zarr hierarchy; one that cannot be looked into is none."""
    try:
        return any((folder / name).is_file() for name in ZARR_FILES)
    except OSError:
        return False


def _offer_array(name: str, array: Any, contents: Contents) -> None:
    if not _has_data(name, array, contents):
        return
    attributes = array.attrs.asdict()
    names = getattr(array.metadata, "dimension_names", None) or attributes.get("_ARRAY_DIMENSIONS")
    if not names or len(names) != len(array.shape):
        names = [""] * len(array.shape)
    axes = pixel_axes(attributes, array.shape, [name or "" for name in names])
    contents.offer(name, array, axes=axes)


def _has_data(name: str, array: Any, contents: Contents) -> bool:
    """Whether the chunks of an array are there and whole; if not, that is noted."""
    if is_unwritten(array):
        contents.skip(name, f"declared, but never written, shape {array.shape}")
        return False
    try:
        _check_chunks(array)
    except DamagedError as error:
        contents.damaged[name] = error
        return False
    return True


def _check_chunks(array: Any) -> None:
    """Raises DamagedError if a chunk that Blosc wrote was cut off, where it would read anything."""
    from zarr.storage import LocalStore

    codecs = getattr(array.metadata, "codecs", None) or [array.metadata.compressor]
    is_blosc = "Blosc" in type(codecs[-1]).__name__
    if not is_blosc or not isinstance(array.store, LocalStore):  # a ZIP file has checksums
        return
    for path in (array.store.root / array.path).rglob("*"):
        if path.is_file() and path.name[0] != "." and path.name not in ZARR_FILES:
            with path.open("rb") as file:
                header = file.read(16)
            if int.from_bytes(header[12:], "little") != path.stat().st_size:
                raise DamagedError(f"chunk {path.name} is cut off")


def _offer_pyramids(name: str, group: Any, ome: Mapping[str, Any], contents: Contents) -> None:
    """Offers each image that `multiscales` lists, mostly one."""
    seen: set[str] = set()
    for multiscale in ome["multiscales"]:
        paths = {dataset["path"] for dataset in multiscale["datasets"]}
        if paths.isdisjoint(seen):  # or it is the same in other words
            _offer_pyramid(name, group, multiscale, ome, contents)
        seen |= paths


def _offer_pyramid(
    name: str,
    group: Any,
    multiscale: Mapping[str, Any],
    ome: Mapping[str, Any],
    contents: Contents,
) -> None:
    """Offers the largest array of an image."""
    listed = {dataset["path"]: dataset for dataset in multiscale["datasets"]}
    datasets = {path: dataset for path, dataset in listed.items() if path in group}
    if not datasets:
        contents.damaged[name] = DamagedError(
            f"an image of which no array is there, of those that it lists: {', '.join(listed)}"
        )
        return
    if first := next((path for path in listed if path not in datasets), None):
        contents.skip(f"{name}/{first}".lstrip("/"), "listed, but not there")
    path = max(datasets, key=lambda path: group[path].size)  # the first of equals
    array = group[path]
    if not _has_data(name, array, contents):
        return
    systems = multiscale.get("coordinateSystems")  # from OME-Zarr 0.6 on
    axes = systems[0]["axes"] if systems else multiscale.get("axes")
    axes = axes or "tczyx"[-len(array.shape) :]  # up to OME-Zarr 0.2
    if len(axes) != len(array.shape):
        contents.skip(name, f"{len(axes)} axes described of an array of shape {array.shape}")
        return
    scale = _scale([datasets[path], {} if systems else multiscale], len(axes))
    labels = [str(c.get("label", "")) for c in (ome.get("omero") or {}).get("channels", [])]
    described = [
        _axis(axis, step, size, labels)
        for axis, step, size in zip(axes, scale, array.shape, strict=True)
    ]
    own = group.attrs.asdict().get(OWN, {})
    title, unit = multiscale.get("name") or "", own.get("intensity_unit", "")
    about = About(str(title), str(unit), own.get("acquisition", {}))
    contents.offer(name, array, axes=described, about=about)


def _axis(axis: Any, step: float | None, size: int, labels: list[str]) -> Axis:
    """An axis by its entry in `axes`, which up to OME-Zarr 0.3 is a name."""
    own = axis if isinstance(axis, Mapping) else {"name": axis}
    name = str(own.get("name", ""))
    if own.get("type") != "channel" and name.lower() != "c":
        return Axis(name, step, own.get("unit"))
    return Axis("c", labels=tuple(labels) if len(labels) == size and all(labels) else ())


def _scale(described: list[Mapping[str, Any]], num_axes: int) -> list[float | None]:
    """Product of the scales of `coordinateTransformations`; None if these are more than scales."""
    unknown: list[float | None] = [None] * num_axes
    waiting = [each for part in described for each in part.get("coordinateTransformations") or []]
    scales = []
    while waiting:
        each = waiting.pop()
        match each.get("type"):
            case "sequence":
                waiting += each.get("transformations", [])
            case "scale" if len(each.get("scale", [])) == num_axes:
                scales.append(each["scale"])
            case "translation" | "identity":
                pass
            case _:
                return unknown
    return [math.prod(steps) for steps in zip(*scales, strict=True)] if scales else unknown
