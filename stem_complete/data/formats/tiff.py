"""Reader of TIFF: plain, ImageJ, OME, Thermo Fisher and DigitalMicrograph exports."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
from numpy.typing import NDArray

from stem_complete.data.formats.axes import Axis
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
        EOFError: Pages are missing, as in a file that was cut off.
    """
    import tifffile

    with _tifffile_complaints() as complaints, tifffile.TiffFile(path) as tiff:
        ome = _ome_images(tiff)
        if ome is None:
            _offer_series(tiff, contents, [])
        elif _is_alone(tiff.ome_metadata or ""):
            _offer_series(tiff, contents, ome)
        else:
            with tifffile.TiffFile(path, is_ome=False) as own:
                _offer_series(own, contents, ome)
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


def _offer_series(tiff: Any, contents: Contents, ome: Sequence[ET.Element]) -> None:
    several = len(tiff.series) > 1
    whole: NDArray[Any] | None = None
    for index, series in enumerate(tiff.series):
        name = f"series {index}" if several else ""
        axes = _axes(tiff, series, _ome_image(ome, index, len(tiff.series)))
        if num_missing := sum(page is None for page in series.pages):
            raise EOFError(f"{num_missing} of {len(series.pages)} pages missing")
        if index and series.keyframe.is_reduced:
            contents.skip(name, f"a preview, shape {series.shape}")
            continue
        require_memory(series.shape, series.dtype)
        data = _without_databar(tiff, series.asarray(), series.axes)
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
            contents.offer(name, data, axes=axes)


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


def _axes(tiff: Any, series: Any, ome: ET.Element | None) -> list[Axis]:
    """The dimensions of a series, with pixel size and channels."""
    steps = _steps(tiff, series.keyframe, ome)
    labels = () if ome is None else _ome_channels(ome)
    axes = []
    for letter, size in zip(series.axes, series.shape, strict=True):
        if letter in steps:
            axes.append(Axis(letter, *steps[letter]))
        elif letter == "C" and len(labels) == size:
            axes.append(Axis(letter, labels=labels))
        elif letter == "S":
            axes.append(Axis("detector"))
        else:
            axes.append(Axis(letter))
    return axes


def _steps(tiff: Any, page: Any, ome: ET.Element | None) -> dict[str, tuple[object, object]]:
    """Side of a pixel along Y and X, each with its unit.

    By the tags of OME, Thermo Fisher, Zeiss, Olympus, DigitalMicrograph or ImageJ, or else by
    those of baseline TIFF.
    """
    tags = page.tags
    if ome is not None:
        return {
            axis: (ome.get(f"PhysicalSize{axis}"), ome.get(f"PhysicalSize{axis}Unit", "µm"))
            for axis in "YX"
        }
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


def _ome_images(tiff: Any) -> list[ET.Element] | None:
    """The `Pixels` of each image that OME-XML describes; None if there is no such XML."""
    if not tiff.ome_metadata:
        return None
    try:
        root = ET.fromstring(tiff.ome_metadata)  # noqa: S314 (as tifffile does)
    except ET.ParseError:
        return None
    return [
        pixels
        for image in root.iterfind("{*}Image")
        if (pixels := image.find("{*}Pixels")) is not None
    ]


def _ome_image(images: Sequence[ET.Element], number: int, num_series: int) -> ET.Element | None:
    """What OME-XML says of a series; None if it is not clear which of its images it is."""
    if len(images) == num_series:
        return images[number]
    sizes = {tuple(sorted(_physical_size(image).items())) for image in images}
    return images[0] if len(sizes) == 1 else None


def _physical_size(pixels: ET.Element) -> dict[str, str]:
    return {key: value for key, value in pixels.items() if key.startswith("PhysicalSize")}


def _is_alone(xml: str) -> bool:
    """Whether all planes are in the file itself."""
    own = re.search(r'<(?:\w+:)?OME\b[^>]*\bUUID="([^"]*)"', xml)
    named = set(re.findall(r"<(?:\w+:)?UUID\b[^>]*>\s*([^<\s]*)\s*<", xml))
    return named <= {own[1] if own else ""} or (own is None and len(named) == 1)


def _ome_channels(pixels: ET.Element) -> tuple[str, ...]:
    """Names of the channels; none if one has none."""
    names = [channel.get("Name", "") for channel in pixels.iterfind("{*}Channel")]
    return tuple(names) if all(names) else ()


def _without_databar(tiff: Any, data: NDArray[Any], axes: str) -> NDArray[Any]:
    """The image of Thermo Fisher without the bar below it, which shows its data in writing."""
    metadata = tiff.fei_metadata or {}
    image, own = metadata.get("Image") or {}, metadata.get("PrivateFei") or {}
    y, x = axes.index("Y"), axes.index("X")
    rows = image.get("ResolutionY") or data.shape[y] - own.get("DatabarHeight", 0)
    if image.get("ResolutionX", data.shape[x]) != data.shape[x] or not 0 < rows < data.shape[y]:
        return data
    return data[(slice(None),) * y + (slice(rows),)]
