"""Files of partial scans, and what this program writes, as layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stem_complete.data.formats.micrographs import Micrograph, read_file
from stem_complete.data.formats.ome_zarr import is_zarr
from stem_complete.data.formats.ome_zarr_writer import OME_ZARR
from stem_complete.data.formats.readers import has_reader
from stem_complete.data.formats.scans import PATHS, read_scans
from stem_complete.inference.image_files import (
    COMPLETED,
    NPY,
    SOFTWARE,
    error_map_of,
    is_ome_zarr,
    read_info,
)
from stem_complete.inference.image_files import ERROR as ERROR_SUFFIX
from stem_complete.inference.scan_files import ARRAYS, is_url
from stem_complete.napari.layers import (
    COMPLETION,
    ERROR,
    SCAN,
    LayerData,
    image_layer,
    place_of,
    scan_layers,
)

_SHOWN = {"completion": COMPLETION, "error": ERROR}
"""What arrays and channels show, by their names."""


def get_reader(
    path: str | Sequence[str],
) -> Callable[[str | Sequence[str]], list[LayerData]] | None:
    """What reads these files; None if they are of none of the formats.

    napari calls this.
    """
    files = _files(path)
    readable = (not is_url(file) and (is_zarr(file) or _is_file(file)) for file in files)
    return read if all(readable) else None


def read(path: str | Sequence[str]) -> list[LayerData]:
    """The layers of files.

    Of a completed image its error map, too, which is beside it or in it.

    Raises:
        DataError: A file cannot be read, or holds neither a partial scan nor a completion.
        MissingPackageError: A package that reads such files is not installed.
    """
    layers = []
    for file in _files(path):
        info = _info(file)
        if not str(info.get("software", "")).startswith(SOFTWARE):
            layers += _arrays(file) if _is_arrays(file) else _scans(file)
        elif is_ome_zarr(file):
            layers += _ome_zarr(file, info)
        else:
            layers += _images(file, info)
    return layers


def _files(path: str | Sequence[str]) -> list[Path]:
    return [Path(each) for each in ([path] if isinstance(path, str) else path)]


def _is_file(file: Path) -> bool:
    return file.is_file() and has_reader(file, PATHS)


def _scans(file: Path) -> list[LayerData]:
    """Partial scans; those of one shape are a stack."""
    layers: list[LayerData] = []
    rasters = (scan.raster() for scan in read_scans(file))
    for shape, scans in groupby(rasters, key=lambda scan: scan.shape):
        of = str(file.absolute()) if not layers else f"{file.absolute()} {shape}"
        layers += scan_layers(list(scans), _name(file), of)
    return layers


def _info(file: Path) -> dict[str, Any]:
    """What a completed image or its error map says of itself; empty of other files."""
    info = read_info(file)
    if not info and file.suffix.lower() == NPY and file.stem.endswith(ERROR_SUFFIX):
        image = file.with_name(f"{file.stem.removesuffix(ERROR_SUFFIX)}{COMPLETED}{file.suffix}")
        info = read_info(image) | {"shows": ERROR}  # of an NPY only the image has a JSON beside it
    return info


def _images(file: Path, info: dict[str, Any]) -> list[LayerData]:
    """A completed image and its error map, or the error map alone."""
    if "error" in str(info.get("shows")):
        return [_image(file, info, ERROR)]
    beside = error_map_of(file)
    # One that was written with another image before is not shown.
    is_of_this = beside.exists() and _info(beside) | {"shows": ""} == info | {"shows": ""}
    errors = [_image(beside, info, ERROR)] if is_of_this else []
    return [*errors, _image(file, info, COMPLETION)]


def _image(file: Path, info: dict[str, Any], shows: str) -> LayerData:
    frames = read_file(file).micrographs
    pixels = _pixels(frames)
    size_nm = info.get("pixel_size_nm") or frames[0].pixel_size_nm  # NPY has none of its own
    return image_layer(pixels, _name(file, shows), shows, place_of(size_nm, pixels.ndim), info)


def _pixels(frames: Sequence[Micrograph]) -> NDArray[Any]:
    pixels = [frame.pixels for frame in frames]
    return pixels[0] if len(pixels) == 1 else np.stack(pixels)


def _ome_zarr(folder: Path, info: dict[str, Any]) -> list[LayerData]:
    """The channels of a completed image, as pyramids that are read as they are looked at."""
    import dask.array as da
    import zarr

    group: Any = zarr.open_group(folder, mode="r")
    multiscale = group.attrs["ome"]["multiscales"][0]
    levels = [da.from_zarr(group[each["path"]]) for each in multiscale["datasets"]]
    told = multiscale["axes"][-1], multiscale["datasets"][0]["coordinateTransformations"][0]
    size_nm = told[1]["scale"][-1] if told[0].get("unit") == "nanometer" else None
    layers = []
    for number, channel in reversed(list(enumerate(info["channels"]))):
        pyramid = [level[..., number, :, :] for level in levels]
        shows = _SHOWN[channel]
        data = pyramid if len(pyramid) > 1 else pyramid[0]
        layers.append(
            image_layer(data, _name(folder, shows), shows, place_of(size_nm, pyramid[0].ndim), info)
        )
    return layers


def _is_arrays(folder: Path) -> bool:
    """Whether it is a group of completions, as `complete` writes with `--format zarr`."""
    import zarr

    if not (folder / "zarr.json").is_file():
        return False
    return bool(zarr.open(folder, mode="r").attrs.get("format") == ARRAYS)


def _arrays(folder: Path) -> list[LayerData]:
    """The completions of each shape as a stack, read as they are looked at.

    What is known of each frame are arrays in their metadata, `rows`.
    """
    import dask.array as da
    import zarr

    root: Any = zarr.open_group(folder, mode="r")
    layers = []
    for name, group in sorted(root.groups()):
        sizes = group["pixel_size_nm"][:]
        size_nm = float(sizes[0]) if len(sizes) and np.ptp(sizes) == 0 else math.nan
        rows = {each: group[each] for each in ("scan", "about", "made_from", "self_check")}
        known = {**root.attrs.asdict(), "rows": rows}
        for array, shows in reversed(_SHOWN.items()):
            if array in group:
                stack = da.from_zarr(group[array])
                title = f"{folder.stem} {name}{' error' if shows == ERROR else ''}"
                layers.append(image_layer(stack, title, shows, place_of(size_nm, 3), known))
    return layers


def _name(file: Path, shows: str = SCAN) -> str:
    """Name of a layer: the scan's, and what it shows of it."""
    stem = file.name[: -len(OME_ZARR)] if is_ome_zarr(file) else file.stem
    scan = stem.removesuffix(COMPLETED).removesuffix(ERROR_SUFFIX)
    return {COMPLETION: f"{scan} completed", ERROR: f"{scan} error"}.get(shows, stem)
