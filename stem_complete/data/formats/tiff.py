"""Reader of TIFF: plain, ImageJ, OME, Thermo Fisher and DigitalMicrograph exports."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stem_complete.console import counted
from stem_complete.data.about import About, plain
from stem_complete.data.formats.axes import Axis
from stem_complete.data.formats.damage import DamagedError, UnknownFormError
from stem_complete.data.formats.databar import num_bar_rows
from stem_complete.data.formats.ome_tiff import Ome, OmeImage, read_ome
from stem_complete.data.formats.signals import Contents, require_memory

# Of DigitalMicrograph's exports: unit and size of a pixel along x and y.
_DM_UNIT_X, _DM_UNIT_Y, _DM_STEP_X, _DM_STEP_Y = 65003, 65004, 65009, 65010

_LIKE = 0.9  # correlation of the levels of a pyramid; their pixels may be means, or each second one

_INCH, _CENTIMETRE = 2, 3  # values of ResolutionUnit
# Inches are the unit of printers and scanners: fewer pixels an inch than this are theirs.
_FEWEST_PER_INCH = 254_000  # 100 nm


def read_tiff(path: Path, contents: Contents) -> None:
    """Offers every series of a TIFF: channels and samples are signals, all else is frames.

    Of several OME-TIFF files that name each other, each gives its own pages.

    Raises:
        DataError: It says that another file has its metadata, and that is not there.
        DamagedError: Pages are missing, as in a file that was cut off.
    """
    import tifffile

    with _tifffile_complaints() as complaints, tifffile.TiffFile(path) as tiff:
        ome = read_ome(path, tiff.ome_metadata, len(tiff.pages))
        if ome is None or ome.is_alone:
            _offer_series(tiff, contents, _series(tiff, ome))
        else:
            with tifffile.TiffFile(path, is_ome=False) as own:
                _offer_series(own, contents, _own_series(own, ome) or _series(own, ome))
        if complaints:
            raise DamagedError("pages missing or damaged")


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


class _Series(NamedTuple):
    """Pages of one shape, with their name and what OME-XML says of them."""

    name: str
    pages: Any  # tifffile.TiffPageSeries
    ome: OmeImage | None


def _series(tiff: Any, ome: Ome | None) -> list[_Series]:
    """The series as tifffile finds them."""
    num = len(tiff.series)
    return [
        _Series(f"series {k}" if num > 1 else "", pages, ome and ome.of_series(k, num))
        for k, pages in enumerate(tiff.series)
    ]


def _own_series(tiff: Any, ome: Ome) -> list[_Series]:
    """One of each channel, by the planes that OME-XML says the file has.

    Raises:
        DamagedError: It has fewer pages.
    """
    import tifffile

    found, images = [], ome.own_images()
    wanted = {page for image in images for pages in image.pages.values() for page in pages}
    if num_missing := sum(page >= len(tiff.pages) for page in wanted):
        raise DamagedError(f"{num_missing} of {counted(len(wanted), 'page')} missing")
    for number, image in enumerate(images):
        for channel, numbers in image.pages.items():
            names = [f"series {number}"] * (len(images) > 1)
            if len(image.pages) > 1:
                labels = image.channels
                names.append(labels[channel] if channel < len(labels) else f"channel {channel}")
            pages = [tiff.pages[page] for page in numbers]
            shape, axes = (len(pages), *pages[0].shape), f"I{pages[0].axes}"
            stack = tifffile.TiffPageSeries(pages, shape, pages[0].dtype, axes, squeeze=False)
            found.append(_Series(" ".join(names), stack, image))
    return found


def _offer_series(tiff: Any, contents: Contents, found: Sequence[_Series]) -> None:
    whole: NDArray[Any] | None = None
    for index, (name, series, ome) in enumerate(found):
        axes = _axes(tiff, series, ome)
        if num_missing := sum(page is None for page in series.pages):
            raise DamagedError(f"{num_missing} of {counted(len(series.pages), 'page')} missing")
        _require_known_form(series.keyframe)
        _require_parts(series)
        if index and series.keyframe.is_reduced:
            contents.skip(name, f"a preview, shape {series.shape}")
            continue
        require_memory(series.shape, series.dtype)
        data = series.asarray()
        if rows := _num_bar_rows(tiff, data, series.axes):
            contents.skip(name, f"a bar of writing below the image, {counted(rows, 'row')}")
            data = data[(slice(None),) * series.axes.index("Y") + (slice(-rows),)]
        samples = series.axes.find("S")
        if whole is not None and samples < 0 and _is_reduced(data, whole):
            height, width = data.shape[-2:]
            contents.skip(name, f"series 0 in a smaller size, {height} x {width} px")
            continue
        if index == 0 and samples < 0:
            whole = data
        colours = _colours(tiff, series.keyframe)
        if colours is not None and data.dtype.kind == "u":
            contents.offer_colours(name, colours[data], axes)
        elif samples >= 0 and _has_colours(series.keyframe):
            del axes[samples]
            contents.offer_colours(name, np.moveaxis(data, samples, -1), axes)
        else:
            contents.offer(name, data, axes=axes, about=_about(tiff))


def _require_known_form(page: Any) -> None:
    """Checks that tifffile knows how a page is stored, as it tells of the rest in its own words.

    Raises:
        UnknownFormError: It does not.
    """
    for what, number in (
        ("compression", page.compression),
        ("photometric interpretation", page.photometric),
    ):
        if not isinstance(number, Enum):
            raise UnknownFormError(f"a {what} that is not supported, {number}")


def _require_parts(series: Any) -> None:
    """Checks that every strip or tile has a place in the file; tifffile reads others as zeros.

    Raises:
        DamagedError: One has none.
    """
    keyframe = series.keyframe
    if keyframe.jpegheader is not None:  # a strip that is told as tiles
        return
    num_parts = 1 if keyframe.is_contiguous else math.prod(keyframe.chunked)
    for page in series.pages:
        there = [all(place) for place in zip(page.dataoffsets, page.databytecounts, strict=False)]
        if num_missing := num_parts - sum(there[:num_parts]):
            parts = counted(num_parts, "tile" if keyframe.is_tiled else "strip")
            raise DamagedError(f"{num_missing} of {parts} of an image missing")


def _about(tiff: Any) -> About:
    """What ImageJ and microscopes write beside an image."""
    imagej = tiff.imagej_metadata or {}
    told = {
        "ImageJ": imagej.get("Info"),
        "Thermo Fisher": tiff.fei_metadata,
        "Zeiss": tiff.sem_metadata,
        "Olympus": tiff.sis_metadata,
        "date": tiff.pages[0].tags.valueof("DateTime"),
    }
    labels = imagej.get("Labels") or ""
    title = labels if isinstance(labels, str) else labels[0]
    known = {name: plain(value) for name, value in told.items() if value}
    return About(str(title), str(imagej.get("vunit", "")), known)


def _is_reduced(image: NDArray[Any], whole: NDArray[Any]) -> bool:
    """Whether it shows the same as `whole` in fewer pixels, as the levels of a pyramid do.

    Of stacks [..., h, w] the first images are compared.
    """
    if image.shape[:-2] != whole.shape[:-2]:
        return False
    image, whole = (each.reshape(-1, *each.shape[-2:])[0] for each in (image, whole))
    steps = {round(long / short) for long, short in zip(whole.shape, image.shape, strict=True)}
    are_numbers = image.dtype.kind in "iuf" and whole.dtype.kind in "iuf"
    if len(steps) != 1 or max(steps) < 2 or min(image.shape) < 2 or not are_numbers:
        return False
    [step] = steps
    height, width = (min(s, w // step) for s, w in zip(image.shape, whole.shape, strict=True))
    blocks = whole[: height * step, : width * step].reshape(height, step, width, step)
    means = blocks.mean(axis=(1, 3), dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        likeness = np.corrcoef(means.ravel(), image[:height, :width].ravel().astype(np.float64))
    return bool(likeness[0, 1] > _LIKE)


def _colours(tiff: Any, page: Any) -> NDArray[np.uint16] | None:
    """Colours [n, 3] of a palette; none for ImageJ, whose palettes colour intensities."""
    if page.photometric.name != "PALETTE" or page.colormap is None or tiff.is_imagej:
        return None
    colours: NDArray[np.uint16] = page.colormap.T
    return colours


def _has_colours(page: Any) -> bool:
    """Whether the samples of a pixel are colours or opacity, rather than detectors."""
    return page.photometric.name not in ("MINISBLACK", "MINISWHITE") or any(
        extra.name in ("ASSOCALPHA", "UNASSALPHA") for extra in page.extrasamples
    )


def _axes(tiff: Any, series: Any, ome: OmeImage | None) -> list[Axis]:
    """The dimensions of a series, with pixel size and channels."""
    steps = _steps(tiff, series.keyframe, ome)
    labels = () if ome is None else ome.channels
    axes = []
    for letter, size in zip(series.axes, series.shape, strict=True):
        if letter in steps:
            axes.append(Axis(letter, *steps[letter]))
        elif letter == "C" and len(labels) == size:
            axes.append(Axis(letter, labels=labels))
        elif letter == "S":
            axes.append(Axis("detector"))
        else:
            axes.append(Axis("" if letter == "Q" else letter))  # Q is what tifffile calls any
    return axes


def _steps(tiff: Any, page: Any, ome: OmeImage | None) -> dict[str, tuple[object, object]]:
    """Side of a pixel along Y and X, each with its unit.

    By the tags of OME, Thermo Fisher, Zeiss, Olympus, DigitalMicrograph or ImageJ, or else by
    those of baseline TIFF.
    """
    tags = page.tags
    if ome is not None:
        return dict(ome.pixel_size())
    if tiff.fei_metadata:
        scan = tiff.fei_metadata.get("Scan") or tiff.fei_metadata.get("EScan") or {}
        return {"Y": (scan.get("PixelHeight"), "m"), "X": (scan.get("PixelWidth"), "m")}
    if tiff.sem_metadata:  # Zeiss
        _, *size_and_unit = tiff.sem_metadata.get("ap_image_pixel_size", ("", None, None))
        return dict.fromkeys("YX", tuple(size_and_unit))
    if tiff.sis_metadata:  # Olympus
        return {axis: (tiff.sis_metadata.get(f"pixelsize{axis.lower()}"), "m") for axis in "YX"}
    if _DM_STEP_X in tags and _DM_STEP_Y in tags:
        unit_x = tags.valueof(_DM_UNIT_X)
        return {
            "Y": (tags.valueof(_DM_STEP_Y), tags.valueof(_DM_UNIT_Y) or unit_x),
            "X": (tags.valueof(_DM_STEP_X), unit_x),
        }
    if "XResolution" not in tags or "YResolution" not in tags:
        return {}
    size = {axis: _inverse(tags[f"{axis}Resolution"].value) for axis in "YX"}
    imagej = tiff.imagej_metadata or {}
    if imagej.get("unit"):
        return {
            "Y": (size["Y"], imagej.get("yunit") or imagej["unit"]),
            "X": (size["X"], imagej["unit"]),
        }
    unit = int(tags["ResolutionUnit"].value) if "ResolutionUnit" in tags else 0
    if unit == _CENTIMETRE:
        return {axis: (size[axis], "cm") for axis in "YX"}
    if unit == _INCH and 0 < size["X"] < 1 / _FEWEST_PER_INCH:
        return {axis: (size[axis], "inch") for axis in "YX"}
    return {}


def _inverse(pixels_per_unit: tuple[int, int]) -> float:
    pixels, units = pixels_per_unit
    return units / pixels if pixels else 0.0


def _num_bar_rows(tiff: Any, data: NDArray[Any], axes: str) -> int:
    """Height of the bar below an image, by Thermo Fisher's metadata or else by its pixels."""
    y, x = axes.index("Y"), axes.index("X")
    metadata = tiff.fei_metadata or {}
    image, own = metadata.get("Image") or {}, metadata.get("PrivateFei") or {}
    if image.get("ResolutionX", data.shape[x]) == data.shape[x]:
        rows = image.get("ResolutionY") or data.shape[y] - own.get("DatabarHeight", 0)
        if 0 < rows < data.shape[y]:
            return int(data.shape[y] - rows)
        if image.get("ResolutionY"):
            return 0
    is_one_image = axes in ("YX", "YXS")
    return num_bar_rows(data) if is_one_image else 0
