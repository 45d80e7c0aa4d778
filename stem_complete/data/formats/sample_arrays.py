"""Samples along a path in files of arrays: NPY, NPZ and HDF5."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stem_complete.data.formats.samples import Samples

_POSITIONS = ("positions", "scan_positions", "coordinates")
_FRAMES = ("frames", "patterns")
_FRAMES_AT_ONCE = 256


def read_npy(path: Path) -> Samples | None:
    """The intensities [n] or [k, n] of samples whose path is another file's."""
    array = np.load(path, allow_pickle=False)
    return Samples({"intensity": array}) if isinstance(array, np.ndarray) else None


def read_npz(path: Path) -> Samples | None:
    """The samples of an NPZ with `x` and `y`, or `positions` [n, 2]; None if it has none."""
    with np.load(path, allow_pickle=False) as file:
        if not _may_have_positions(file.files):  # images, which are large, are not read for that
            return None
        arrays = {name: file[name] for name in file.files}
    return _samples({k: v for k, v in arrays.items() if v.dtype.kind in "biufSU"}, {})


def read_hdf5(path: Path) -> Samples | None:
    """The samples of an HDF5 file; None if it has none.

    In one of its groups are, in this order of preference,

    - `x` and `y` [n] or `positions` [n, 2], and vectors of intensities [n] or [k, n], among them
      that which NeXus' attribute `signal` names;
    - positions, and `frames` [n, ky, kx], of which the sum is taken;
    - stempy's `electron_events`: the events of each frame [n], which are counted, and its number.
    """
    import h5py

    with h5py.File(path, "r") as file:
        groups: list[Any] = [file]
        file.visititems(
            lambda _, item: groups.append(item) if isinstance(item, h5py.Group) else None
        )
        for group in groups:
            items = {name: group.get(name) for name in group}
            datasets = {name: i for name, i in items.items() if isinstance(i, h5py.Dataset)}
            found = _events(datasets) or _of_group(group, datasets)
            if found is not None:
                return found
    return None


def _of_group(group: Any, datasets: Mapping[str, Any]) -> Samples | None:
    small = {
        name: dataset
        for name, dataset in datasets.items()
        if dataset.shape is not None and len(dataset.shape) < 3 and dataset.dtype.kind in "biufSUO"
    }
    if not _num_positions(small):
        return None
    arrays = {name: _content(dataset) for name, dataset in small.items()}
    notes: list[str] = []
    num = _num_positions(small)
    frames = next((datasets[name] for name in _FRAMES if name in datasets), None)
    if frames is not None and len(frames.shape) == 3 and len(frames) == num:
        arrays["intensity"] = np.concatenate(
            [
                frames[first : first + _FRAMES_AT_ONCE].sum(axis=(1, 2), dtype=np.float64)
                for first in range(0, num, _FRAMES_AT_ONCE)
            ]
        )
        notes.append("the intensity of a sample is the sum of its frame")
    signal = _text(group.attrs.get("signal", ""))
    if signal in arrays and "intensity" not in arrays:
        arrays["intensity"] = arrays.pop(signal)
    units = {name: _text(dataset.attrs.get("units", "")) for name, dataset in small.items()}
    attributes = {**group.file.attrs, **group.attrs}
    samples = _samples(arrays, {name: unit for name, unit in units.items() if unit})
    if samples is not None:
        samples.metadata = {
            **{k.lower(): _plain(v) for k, v in attributes.items()},
            **samples.metadata,
        }
        samples.notes += notes
    return samples


def _events(datasets: Mapping[str, Any]) -> Samples | None:
    """stempy: the electrons of each frame, and the number of its pixel, row by row."""
    frames, numbers = datasets.get("frames"), datasets.get("scan_positions")
    if frames is None or numbers is None or frames.dtype.kind != "O" or "Nx" not in numbers.attrs:
        return None
    width, height = int(numbers.attrs["Nx"]), int(numbers.attrs["Ny"])
    pixels = np.ravel(numbers[()]).astype(np.int64)
    counts = np.array(
        [sum(map(len, np.atleast_1d(f))) if f.dtype == object else len(f) for f in frames]
    )
    columns = {"x": pixels % width, "y": pixels // width, "intensity": counts}
    notes = ["the intensity of a sample is the number of its electrons"]
    return Samples(columns, {"shape": (height, width)}, notes=notes)


def _may_have_positions(names: Iterable[str]) -> bool:
    beginnings = {name.lower()[:1] for name in names}
    return {"x", "y"} <= beginnings or any(name in _POSITIONS for name in names)


def _num_positions(arrays: Mapping[str, Any]) -> int:
    """How many positions there are, 0 if none."""
    for name in _POSITIONS:
        if name in arrays and len(arrays[name].shape) == 2 and arrays[name].shape[1] == 2:
            return int(arrays[name].shape[0])
    vectors = {name: a for name, a in arrays.items() if len(a.shape) == 1}
    by_name = {
        name.lower()[0]: a
        for name, a in vectors.items()
        if name.lower()[:2] in ("x", "y", "x_", "y_", "x ", "y ")
    }
    if len(by_name) == 2 and by_name["x"].shape == by_name["y"].shape:
        return int(by_name["x"].shape[0])
    return 0


def _samples(arrays: dict[str, NDArray[Any]], units: dict[str, str]) -> Samples | None:
    """Samples of arrays by name, if some are positions and some have a value for each of them."""
    num = _num_positions(arrays)
    if not num or _are_axes_of_an_image(arrays, num):
        return None
    columns: dict[str, NDArray[Any]] = {}
    metadata: dict[str, Any] = {}
    for name, array in arrays.items():
        if name in _POSITIONS and array.shape == (num, 2):
            columns |= {"x": array[:, 0], "y": array[:, 1]}
            units = units | (dict.fromkeys("xy", units[name]) if name in units else {})
        elif array.dtype.kind in "biuf" and array.ndim in (1, 2) and array.shape[-1] == num:
            columns[name] = array
        elif array.size <= 4:
            metadata[name.lower()] = _plain(array)
    return Samples(columns, metadata, units) if len(columns) > 2 else None


def _are_axes_of_an_image(arrays: Mapping[str, NDArray[Any]], num: int) -> bool:
    """Whether x and y are the coordinates of columns and rows of a square image.

    As a path they would be a straight diagonal, and the image as many scans as it has samples.
    """
    vectors = [
        array
        for name, array in arrays.items()
        if name.lower()[:1] in ("x", "y") and array.shape == (num,) and array.dtype.kind in "iuf"
    ]
    has_image = any(array.shape == (num, num) for array in arrays.values())
    steps = [np.diff(vector.astype(np.float64)) for vector in vectors]
    return has_image and num > 2 and all(np.allclose(s, s[0]) and s[0] != 0 for s in steps)


def _content(dataset: Any) -> NDArray[Any]:
    if dataset.dtype.kind == "O":
        return np.asarray(_text(dataset[()]) if not dataset.shape else "")
    array: NDArray[Any] = np.asarray(dataset[()])
    return array


def _plain(value: Any) -> Any:
    array = np.asarray(value)
    if array.dtype.kind in "SUO":
        return _text(array.ravel()[0]) if array.size else ""
    return array.ravel().tolist() if array.ndim else array.item()


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
