"""Readers of TIFF, PNG, NPY, NPZ, HDF5 and zarr: each offers what a file holds to `Contents`."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from stem_complete.data.formats.pixel_size import nanometres, square
from stem_complete.data.formats.signals import Contents

# A pixel above this size [nm] is no pixel of an electron micrograph: the resolution tags then hold
# a printing default such as 72 dpi.
_LARGEST_PIXEL_NM = 1e3


def read_tiff(path: Path, contents: Contents) -> None:
    """Offers every series of a TIFF; its pages are frames.

    Raises:
        EOFError: Pages are missing, as in a file that was cut off.
    """
    import tifffile

    with _tifffile_complaints() as complaints, tifffile.TiffFile(path) as tiff:
        size_nm = _tiff_pixel_size(tiff)
        several = len(tiff.series) > 1
        for index, series in enumerate(tiff.series):
            data = series.asarray()
            if "S" not in series.axes:
                data = data.reshape(-1, *data.shape[-2:])  # channels, times, depths: all are frames
            elif not series.axes.endswith("S"):  # colours in planes
                data = np.moveaxis(data, series.axes.index("S"), -1)
            contents.offer(f"series {index}" if several else "", data, size_nm)
        if complaints:
            raise EOFError(f"missing pages ({complaints[0]})")


@contextmanager
def _tifffile_complaints() -> Iterator[list[str]]:
    """What tifffile logs about lost pages; it reads on without them, and we must not."""
    complaints: list[str] = []

    class _Listener(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            text = record.getMessage()
            if re.search(r"page offset|reshape|corrupted", text):
                complaints.append(text)
            return False

    logger, listener = logging.getLogger("tifffile"), _Listener()
    logger.addFilter(listener)
    try:
        yield complaints
    finally:
        logger.removeFilter(listener)


def _tiff_pixel_size(tiff: Any) -> float | None:
    """Pixel size from OME, Thermo Fisher, ImageJ or baseline tags, in this order."""
    if tiff.ome_metadata:
        sizes = {
            axis: nanometres(
                _attribute(tiff.ome_metadata, f"PhysicalSize{axis}"),
                _attribute(tiff.ome_metadata, f"PhysicalSize{axis}Unit") or "µm",
            )
            for axis in "YX"
        }
        return square(sizes["Y"], sizes["X"])
    if tiff.fei_metadata:
        scan = tiff.fei_metadata.get("Scan") or tiff.fei_metadata.get("EScan") or {}
        return square(
            nanometres(scan.get("PixelHeight"), "m"), nanometres(scan.get("PixelWidth"), "m")
        )
    tags = tiff.pages[0].tags
    if "XResolution" not in tags or "YResolution" not in tags:
        return None
    per_unit = {axis: _ratio(tags[f"{axis}Resolution"].value) for axis in "YX"}
    unit = (tiff.imagej_metadata or {}).get("unit")
    if unit:
        return square(*(nanometres(_inverse(per_unit[axis]), unit) for axis in "YX"))
    code = int(tags["ResolutionUnit"].value) if "ResolutionUnit" in tags else 1
    unit_nm = {2: 2.54e7, 3: 1e7}.get(code, 0.0)  # inch, centimetre
    size = square(*(nanometres(_inverse(per_unit[axis]) * unit_nm, "nm") for axis in "YX"))
    return size if size and size < _LARGEST_PIXEL_NM else None


def _attribute(xml: str, name: str) -> str | None:
    match = re.search(rf'\b{name}="([^"]*)"', xml)
    return match.group(1) if match else None


def _ratio(value: tuple[int, int]) -> float:
    return value[0] / value[1] if value[1] else 0.0


def _inverse(value: float) -> float:
    return 1 / value if value else 0.0


def read_png(path: Path, contents: Contents) -> None:
    """Offers the image of a PNG, 8 or 16 bit."""
    import imagecodecs

    image = imagecodecs.png_decode(path.read_bytes())
    opaque = image[..., 0] if image.ndim == 3 and image.shape[2] == 2 else image
    contents.offer("", opaque)


def read_numpy(path: Path, contents: Contents) -> None:
    """Offers the array of an NPY, or every array of an NPZ. Nothing is unpickled."""
    with path.open("rb") as file:
        loaded = np.load(file, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            contents.offer("", loaded)
        else:
            for name in loaded.files:
                array = loaded[name]
                if isinstance(array, np.ndarray):
                    contents.offer(name, array)
                else:
                    contents.skip(name, "no array")


def read_hdf5(path: Path, contents: Contents) -> None:
    """Offers every dataset of an HDF5 file that has two dimensions or more."""
    import h5py

    found: list[tuple[str, Any]] = []
    with h5py.File(path, "r") as file:
        file.visititems(
            lambda name, item: (
                found.append((name, item)) if isinstance(item, h5py.Dataset) else None
            )
        )
        _offer_tree(contents, [(name, item, _hdf5_pixel_size(item)) for name, item in found])


def _hdf5_pixel_size(dataset: Any) -> float | None:
    attributes = dataset.attrs
    if "element_size_um" in attributes:  # ImageJ's HDF5 plug-in: z, y, x
        sizes = np.ravel(attributes["element_size_um"])
        return square(*(nanometres(size, "µm") for size in sizes[-2:])) if len(sizes) > 1 else None
    scale = next((attributes[k] for k in ("pixel_size", "scale") if k in attributes), None)
    units = ("pixel_unit", "scale_unit", "unit", "units")
    return nanometres(scale, next((attributes[k] for k in units if k in attributes), ""))


def read_zarr(path: Path, contents: Contents) -> None:
    """Offers every array of a zarr 2 or 3 hierarchy; of an OME-Zarr pyramid the full size only."""
    import zarr

    from stem_complete.data.store.layout import FORMAT

    node = zarr.open(path, mode="r")
    if isinstance(node, zarr.Array):
        _offer_tree(contents, [("", node, None)])
        return
    attributes: dict[str, Any] = dict(node.attrs.asdict())
    if attributes.get("format") == FORMAT:
        raise ValueError("a store of ingested crops, from which nothing is ingested again")
    multiscales = attributes.get("ome", attributes).get("multiscales")
    if multiscales:
        full = multiscales[0]["datasets"][0]
        size_nm = _ome_zarr_pixel_size(multiscales[0].get("axes", []), full)
        _offer_tree(contents, [("", node[full["path"]], size_nm)])
        return
    arrays: list[tuple[str, Any, float | None]] = [
        (name, item, None)
        for name, item in sorted(node.members(max_depth=None))
        if isinstance(item, zarr.Array)
    ]
    _offer_tree(contents, arrays)


def _ome_zarr_pixel_size(axes: list[Any], dataset: Mapping[str, Any]) -> float | None:
    scale = next(
        (t["scale"] for t in dataset.get("coordinateTransformations", []) if "scale" in t), None
    )
    if scale is None or len(axes) < 2 or len(scale) != len(axes):
        return None
    units = [axis.get("unit") if isinstance(axis, dict) else None for axis in axes]
    return square(nanometres(scale[-2], units[-2]), nanometres(scale[-1], units[-1]))


def _offer_tree(contents: Contents, arrays: list[tuple[str, Any, float | None]]) -> None:
    """Offers the arrays of a hierarchy; its vectors are axes and the like, no news if skipped."""
    vectors = [entry for entry in arrays if len(entry[1].shape) < 2]
    images = [entry for entry in arrays if len(entry[1].shape) >= 2]
    for name, array, size_nm in images or vectors:
        contents.offer(name, array, size_nm)
