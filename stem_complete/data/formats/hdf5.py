"""Reader of HDF5: plain data sets, HyperSpy, Nion Swift, and EMD of Berkeley and py4DSTEM."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stem_complete.data.formats.axes import Axis, step_of
from stem_complete.data.formats.chunks import is_unwritten
from stem_complete.data.formats.hyperspy_trees import is_hyperspy, offer_hyperspy
from stem_complete.data.formats.signals import Contents

# Classes of py4DSTEM by their attribute `python_class`. Its `VirtualImage` and `RealSlice` are
# images; what is left out here is derived, in reciprocal space, or a list of points.
_NO_IMAGES = {
    r"DataCube": "4D-STEM data",
    r".*Diffraction.*|Probe.*|Bragg\w*Map\w*|Bragg\w*|QPoints": "diffraction patterns",
    r"PointList\w*": "a list of points",
    r"StrainMap|Calibration|Metadata": "derived values",
}


def read_hdf5(path: Path, contents: Contents) -> None:
    """Offers every data set of an HDF5 file that has two dimensions or more."""
    import h5py

    with h5py.File(path, "r") as file:
        if is_hyperspy(file):
            offer_hyperspy(file, contents)
            return
        for name, dataset in _datasets(file, contents, "", set()):
            if dataset.shape is None:
                contents.skip(name, "a null data set, without data")
            elif _holds_images(dataset.dtype):  # in fields of a table
                contents.offer(name, dataset)
            elif len(dataset.shape) < 2:
                contents.pass_over(name, dataset.shape)
            elif lost := _lost_sources(dataset, path):
                contents.skip(name, f"a virtual data set of {', '.join(lost)}, not there")
            elif is_unwritten(dataset):
                contents.skip(name, f"declared, but never written, shape {dataset.shape}")
            elif h5py.check_enum_dtype(dataset.dtype):
                contents.skip(name, "classes, each pixel one of a few names")
            else:
                with contents.apart(name):
                    _offer(name, dataset, contents)


def is_velox(path: Path) -> bool:
    """Whether an EMD file is of Thermo Fisher's Velox, which only shares its suffix with others."""
    import h5py

    with h5py.File(path, "r") as file:
        return "Data" in file and ("Version" in file or "Operations" in file)


def _datasets(
    group: Any, contents: Contents, prefix: str, seen: set[tuple[int, int]]
) -> Iterator[tuple[str, Any]]:
    """Each data set once, however many links lead to it. Links that lead nowhere are noted."""
    import h5py

    if _is_known(group, seen):
        return
    links = {key: group.get(key, getlink=True) for key in group}
    for key, link in sorted(links.items(), key=lambda each: not _is_hard(each[1])):
        name = f"{prefix}{key}"
        try:
            item = group[key]
        except Exception as error:  # h5py has many for links that lead nowhere
            if link is None or _is_hard(link):  # none, where the file is damaged
                contents.damaged[name] = error
                continue
            target = " in ".join(filter(None, (link.path, getattr(link, "filename", ""))))
            contents.skip(name, f"a link to {target}, which is not there")
            continue
        if isinstance(item, h5py.Group):
            yield from _datasets(item, contents, f"{name}/", seen)
        elif isinstance(item, h5py.Dataset) and not _is_known(item, seen):
            yield name, item


def _is_known(item: Any, seen: set[tuple[int, int]]) -> bool:
    """Whether a group or data set was seen before, perhaps by another name."""
    import h5py

    info = h5py.h5o.get_info(item.id)
    place = (info.fileno, info.addr)
    is_known = place in seen
    seen.add(place)
    return is_known


def _lost_sources(dataset: Any, path: Path) -> list[str]:
    """Files that a virtual data set is made of and that are not there: it would read as zeros."""
    if not dataset.is_virtual:
        return []
    files = {source.file_name for source in dataset.virtual_sources()} - {"."}
    # Names with % stand for many files.
    return sorted(file for file in files if "%" not in file and not (path.parent / file).exists())


def _holds_images(dtype: np.dtype[Any]) -> bool:
    """Whether the type has a field of arrays with two dimensions or more."""
    return any(len(dtype[name].shape) > 1 for name in dtype.names or ())


def _is_hard(link: Any) -> bool:
    import h5py

    return isinstance(link, h5py.HardLink)


def _offer(name: str, dataset: Any, contents: Contents) -> None:
    group = dataset.parent
    if "emd_group_type" in group.attrs and name.endswith("/data"):
        name = name.split("/")[-2]
    own_class = _text(dataset.attrs.get("python_class") or group.attrs.get("python_class"))
    for pattern, what in _NO_IMAGES.items():
        if re.fullmatch(pattern, own_class):
            contents.skip(name, f"{what} ({own_class}), shape {dataset.shape}")
            return
    if "diffractionslices" in dataset.name.split("/"):  # of py4DSTEM before 0.14
        contents.skip(name, f"diffraction patterns, shape {dataset.shape}")
        return
    axes = (
        _emd_axes(dataset)
        or _swift_axes(dataset.attrs, dataset.shape)
        or _scaled_axes(dataset)
        or _labelled(dataset)
    )
    contents.offer(name, dataset, axes=axes)


def _emd_axes(dataset: Any) -> list[Axis] | None:
    """By the vectors `dim1`, ... (Berkeley) or `dim0`, ... (py4DSTEM) beside the data set."""
    group, num = dataset.parent, len(dataset.shape)
    first = 0 if "dim0" in group else 1
    dims = [group.get(f"dim{number}") for number in range(first, first + num)]
    if not any(dims) or dataset.name.rsplit("/", 1)[-1].startswith("dim"):
        return None
    return [
        Axis() if dim is None else _emd_axis(dim, size)
        for dim, size in zip(dims, dataset.shape, strict=True)
    ]


def _emd_axis(dim: Any, size: int) -> Axis:
    name = re.sub(r"dim\d+", "", _text(dim.attrs.get("name")))
    if dim.dtype.kind not in "iuf":  # names of the entries
        labels = tuple(map(_text, np.ravel(dim[()])))
        return Axis(name, labels=labels if len(labels) == size else ())
    # A vector of two stands for one that goes on like that.
    return Axis(name, step_of(np.ravel(dim[:]).tolist()), dim.attrs.get("units"))


def _swift_axes(attributes: Mapping[str, Any], shape: tuple[int, ...]) -> list[Axis] | None:
    """By the calibrations that Nion Swift writes as JSON into an attribute `properties`."""
    try:
        properties = json.loads(attributes["properties"])
        calibrations = properties["dimensional_calibrations"]
        steps = [(c.get("scale"), c.get("units")) for c in calibrations]
    except (KeyError, ValueError, TypeError, AttributeError):
        return None
    if len(steps) != len(shape):
        return None
    num_pixels = properties.get("datum_dimension_count")
    if num_pixels is None:
        return [Axis("", *step) for step in steps]
    first = len(shape) - num_pixels
    return [Axis("", *step, scanned=i < first) for i, step in enumerate(steps)]


def _scaled_axes(dataset: Any) -> list[Axis] | None:
    """By HDF5's dimension scales, or by the vectors that NeXus names as axes of its signal."""
    group, own = dataset.parent, dataset.name.rsplit("/", 1)[-1]
    nexus = [_text(name) for name in np.ravel(group.attrs.get("axes", []))]
    if _text(group.attrs.get("signal")) != own or len(nexus) != len(dataset.shape):
        nexus = [""] * len(dataset.shape)
    vectors = [
        dim[0] if len(dim) else group.get(name) if name else None
        for dim, name in zip(dataset.dims, nexus, strict=True)
    ]
    if not any(vectors):
        return None
    axes = []
    for dim, vector, size in zip(dataset.dims, vectors, dataset.shape, strict=True):
        if vector is None or vector.shape != (size,) or vector.dtype.kind not in "iuf":
            axes.append(Axis(dim.label))
        else:
            name = dim.label or vector.name.rsplit("/", 1)[-1]
            axes.append(Axis(name, step_of(vector[:].tolist()), vector.attrs.get("units")))
    return axes


def _labelled(dataset: Any) -> list[Axis] | None:
    """By the labels of its dimensions and the pixel size in its attributes."""
    return pixel_axes(dataset.attrs, dataset.shape, [dim.label for dim in dataset.dims])


def pixel_axes(
    attributes: Mapping[str, Any], shape: tuple[int, ...], names: Sequence[str]
) -> list[Axis] | None:
    """Axes by their names and a pixel size in an array's attributes; None if it has neither.

    The pixel size is that of the last two dimensions, or one number for each of the last ones.
    """
    units = ("pixel_unit", "pixel_units", "scale_unit", "unit", "units")
    scale: Any
    unit: Any
    if "element_size_um" in attributes:  # ImageJ's HDF5 plug-in: z, y, x
        scale, unit = attributes["element_size_um"], "um"
    else:
        scale = next((attributes[k] for k in ("pixel_size", "scale") if k in attributes), None)
        unit = next((attributes[k] for k in units if k in attributes), None)
    if scale is None and not any(names):
        return None
    steps, own_units = _of_last(scale, len(shape)), _of_last(unit, len(shape))
    return [
        Axis(name, step, None if step is None else own)
        for name, step, own in zip(names, steps, own_units, strict=True)
    ]


def _of_last(values: Any, num_axes: int) -> list[Any]:
    """A value for each axis: one is that of the last two, several are those of the last ones."""
    each = np.ravel(np.asarray(values, dtype=object)).tolist()
    return ([None] * num_axes + (each * 2 if len(each) == 1 else each))[-num_axes:]


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value or "")
