"""Completed images as files: ImageJ TIFF, NPY, HyperSpy or OME-Zarr.

Error map and PNG preview are files beside them; in OME-Zarr the error map is a channel.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

import stem_complete
from stem_complete.data.about import plain
from stem_complete.data.formats.hspy_writer import HSPY, read_hspy_info, write_hspy
from stem_complete.data.formats.ome_zarr_writer import OME_ZARR, read_own, write_ome_zarr
from stem_complete.data.scans import RasterScan
from stem_complete.errors import DataError
from stem_complete.files import atomic_file, atomic_folder
from stem_complete.inference.completer import CompletedScan
from stem_complete.inference.sources import called

COMPLETED, ERROR = "_completed", "_error"
NPY = ".npy"
SOFTWARE = "stem-complete"
DISPLAY_PERCENTILES = (0.5, 99.5)
"""Percentiles of the intensities shown as black and white, so that hot pixels do not matter."""


# Tags of DigitalMicrograph, of x and y, and of the intensities' unit in short and in full.
_DM_UNITS, _DM_STEPS, _DM_INTENSITY_UNITS = (65003, 65004), (65009, 65010), (65022, 65023)
_MOST_TIFF_BYTES = 2**32 - 2**25  # of pixels, leaving room for what is said of them
_MICRO = str.maketrans("µμ", "uu")  # of which Unicode has two


class Outputs(NamedTuple):
    """What is written of a scan beside the completed image.

    Attributes:
        png: A preview.
        error_map: The expected RMS error of each pixel.
        overwrite: Whether what is there is completed again.
        self_check: Whether held-out parts of the scan are predicted, see `Completer.self_check`.
        keep_measured: Whether measured pixels are blended back.
    """

    png: bool = False
    error_map: bool = False
    overwrite: bool = False
    self_check: bool = False
    keep_measured: bool = False


IMAGE_ALONE = Outputs()
COMPLETION_CHANNEL, ERROR_CHANNEL = "completion", "error"


def preview_of(image: Path) -> Path:
    """PNG beside a completed image."""
    return image.with_name(f"{_stem(image)}.png")


def error_map_of(image: Path) -> Path:
    """File of the error map beside a completed image."""
    return image.with_name(f"{image.stem.removesuffix(COMPLETED)}{ERROR}{image.suffix}")


def info_of(image: Path) -> Path:
    """JSON beside a completed NPY, which has no place for it."""
    return image.with_suffix(".json")


def beside(image: Path, outputs: Outputs) -> list[Path]:
    """Files that are to be beside a completed image."""
    return [
        *([error_map_of(image)] if outputs.error_map and not is_ome_zarr(image) else []),
        *([preview_of(image)] if outputs.png else []),
        *([info_of(image)] if image.suffix.lower() == NPY else []),
    ]


def is_ome_zarr(image: Path) -> bool:
    """Whether a completed image is a folder of OME-Zarr, which has its error map in itself."""
    return image.name.lower().endswith(OME_ZARR)


def why_again(image: Path, outputs: Outputs, made_from: Mapping[str, str]) -> str | None:
    """Why a scan is to be completed: None if the image and all beside it are there and of the same.

    Args:
        image: The completed image, which may not be there.
        outputs: What is to be beside it.
        made_from: Hashes of what it follows from, by name, as `write_completion` stores them.

    Returns:
        What is to be told: "" if there is no image, or only something beside it is missing.

    Raises:
        DataError: The image that is there was not written by this program.
    """
    if not image.exists():
        return ""
    info = read_info(image)
    if not str(info.get("software", "")).startswith(SOFTWARE):
        raise DataError(
            expected="no image, or one completed by this program",
            found="another image",
            where=image,
            fix="choose another output folder or ask to overwrite",
        )
    before = info.get("made_from")
    if not isinstance(before, dict):
        return "done again, as the image that was there does not tell what it was made from"
    names = dict.fromkeys((*made_from, *before))
    if changed := [name for name in names if before.get(name) != made_from.get(name)]:
        return f"done again, as its {' and '.join(changed)} changed"
    has_all = all(path.exists() for path in beside(image, outputs))
    if outputs.error_map and is_ome_zarr(image):
        has_all &= ERROR_CHANNEL in info["channels"]
    return None if has_all else ""


def write_completion(
    completed: CompletedScan | Sequence[CompletedScan],
    image: Path,
    outputs: Outputs = IMAGE_ALONE,
    made_from: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Writes a float32 image in the units of the scan and with its pixel size.

    A preview `<image>.png` and the error map `<image>_error.tif` come before it: where the image
    is, all is there. What the other formats say of themselves, `<image>.json` says of an NPY.

    Args:
        completed: As from `complete_scans`, with an error map if that is to be written. Several of
            one shape become the frames of a stack; the preview is that of the first.
        image: File to write or replace; its suffix chooses the format: `.tif`, `.npy`, `.hspy`, or
            `.ome.zarr`, which is a folder.
        outputs: What is written beside it.
        made_from: Hashes that are stored in it, see `why_again`.
        options: How the scan was read and completed, by name, beside what `outputs` say.

    Returns:
        What was written; the image is last.

    Raises:
        DataError: A file cannot be written.
    """
    several = [completed] if isinstance(completed, CompletedScan) else list(completed)
    scan, (pixels, error), *_ = several[0]
    if len(several) > 1:
        pixels = np.stack([each.completion.image for each in several])
        errors = [e for each in several if (e := each.completion.error) is not None]
        error = np.stack(errors) if errors else None
    if not outputs.error_map:
        error = None
    info = completion_info(several, outputs, made_from or {}, options or {})
    size_nm, suffix = scan.pixel_size_nm, image.suffix.lower()

    def of(array: NDArray[np.float32], shows: str) -> Callable[[Path], None]:
        told = info | {"shows": shows}
        if suffix == NPY:
            return lambda draft: np.save(draft, array, allow_pickle=False)
        if suffix == HSPY:
            title = info["title"] + (f", {shows}" if array is error else "")
            about = scan.about._replace(title=title)
            return lambda draft: write_hspy(draft, array, size_nm, about, told)
        return partial(write_tiff, image=array, pixel_size_nm=size_nm, info=told)

    files: dict[Path, Callable[[Path], Any]] = {}
    if error is not None and not is_ome_zarr(image):
        files[error_map_of(image)] = of(error, "expected root mean square error of each pixel")
    if outputs.png:
        files[preview_of(image)] = partial(write_png, image=several[0].completion.image)
    if suffix == NPY:
        told = json.dumps(info | {"pixel_size_nm": size_nm}, indent=1)
        files[info_of(image)] = lambda draft: draft.write_text(told)
    if is_ome_zarr(image):
        channels = {COMPLETION_CHANNEL: pixels, **({} if error is None else {ERROR_CHANNEL: error})}
        own = info | {"channels": list(channels)}
        files[image] = lambda draft: write_ome_zarr(draft, channels, size_nm, info["title"], own)
    else:
        files[image] = of(pixels, "completed partial scan")
    for path, write in files.items():
        try:
            with (atomic_folder if is_ome_zarr(path) else atomic_file)(path) as draft:
                write(draft)
        except OSError as problem:
            raise DataError(
                expected="to write the completed image",
                found=problem.strerror or str(problem),
                where=path,
                fix="make room or choose another output, then run it again: it goes on where it "
                "was",
            ) from problem
    return list(files)


def described(scan: RasterScan) -> dict[str, Any]:
    """Title of a scan, and its unit and acquisition metadata if its file told them."""
    title, unit, metadata = scan.about
    return {
        "title": title or scan.name,
        **({"intensity_unit": unit} if unit else {}),
        **({"acquisition": plain(metadata)} if metadata else {}),
    }


def completion_info(
    several: Sequence[CompletedScan],
    outputs: Outputs,
    made_from: Mapping[str, str],
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """What a completed image says of itself, and of the scan that it is of; see `write_completion`.

    Of several of one shape, the first and each self-check.
    """
    scan, _, model, _ = several[0]
    checks = [each.check for each in several if each.check is not None]
    told = [{"note": check.note, **plain(check._asdict())} for check in checks]
    return {
        "software": f"{SOFTWARE} {stem_complete.__version__}",
        "scan": scan.name,
        **described(scan),
        "model": called(model),
        "model_sha256": model.weights_sha256,
        "options": {
            "self_check": outputs.self_check,
            "keep_measured": outputs.keep_measured,
            **plain(options),
        },
        **({"made_from": dict(made_from)} if made_from else {}),
        **({"self_check": told} if told else {}),
    }


def write_tiff(
    path: Path | BinaryIO,
    image: NDArray[np.float32],
    pixel_size_nm: float | None,
    info: dict[str, Any],
) -> None:
    """Writes a float32 TIFF that ImageJ and Fiji open with its scale and a fitting contrast.

    RosettaSciIO reads no nm of ImageJ's, so that units are in DigitalMicrograph's tags as well.

    Args:
        path: File to write or replace, or one that is open for writing.
        image: [h, w], or a stack [n, h, w].
        pixel_size_nm: Side of a pixel [nm], if known.
        info: Shown by ImageJ's "Show Info", and returned by `read_info`; its `title` is the label
            of each frame, and its `intensity_unit` that of ImageJ's calibrated values.
    """
    import tifffile

    low, high = display_range(image)
    metadata: dict[str, Any] = {
        "axes": "TYX"[-image.ndim :],
        "Info": json.dumps(info),
        "min": low,
        "max": high,
    }
    if title := info.get("title"):
        metadata["Labels"] = [title] * math.prod(image.shape[:-2])
    resolution = None
    digital_micrograph: list[tuple[int, str, int, str | float]] = []
    if unit := info.get("intensity_unit"):
        ascii_unit = str(unit).translate(_MICRO).encode("ascii", "replace").decode()
        # A straight line: the value is that of the pixel.
        metadata |= {"cf": 0, "c0": 0.0, "c1": 1.0, "vunit": ascii_unit}
        digital_micrograph += [(tag, "s", 0, ascii_unit) for tag in _DM_INTENSITY_UNITS]
    if pixel_size_nm is not None:
        metadata["unit"] = "nm"
        resolution = (1 / pixel_size_nm, 1 / pixel_size_nm)
        digital_micrograph += [(tag, "s", 0, "nm") for tag in _DM_UNITS]
        digital_micrograph += [(tag, "d", 1, pixel_size_nm) for tag in _DM_STEPS]
    tifffile.imwrite(
        path,
        image,
        imagej=True,
        resolution=resolution,
        resolutionunit=1,
        # Offsets in a TIFF have 32 bits, and ImageJ knows no BigTIFF: as it does itself, a larger
        # stack has one directory, which says how many frames lie behind the first.
        truncate=image.nbytes > _MOST_TIFF_BYTES,
        metadata=metadata,
        extratags=digital_micrograph,
    )


def read_info(path: Path) -> dict[str, Any]:
    """What a completed image says of itself, or the JSON beside it; empty if there is nothing.

    Args:
        path: The image; a `UPath` if it lies on an object store.
    """
    import tifffile

    try:
        if path.suffix.lower() == NPY:
            info = json.loads(info_of(path).read_text())
        elif is_ome_zarr(path):
            info = read_own(path)
        elif path.suffix.lower() == HSPY:
            with path.open("rb") as file:
                info = read_hspy_info(file)
        else:
            with path.open("rb") as file, tifffile.TiffFile(file) as tiff:
                info = json.loads((tiff.imagej_metadata or {}).get("Info", "{}"))
    except (OSError, ValueError, tifffile.TiffFileError):
        return {}
    return info if isinstance(info, dict) else {}


def write_png(path: Path, image: NDArray[np.float32]) -> None:
    """Writes an 8-bit greyscale preview of `image` [h, w]."""
    path.write_bytes(png_of(image))


def png_of(image: NDArray[np.float32]) -> bytes:
    """An 8-bit greyscale preview of `image` [h, w], as PNG."""
    import imagecodecs

    low, high = display_range(image)
    grey = np.clip((image - np.float32(low)) / np.float32((high - low) or 1), 0, 1)
    return bytes(imagecodecs.png_encode((255 * grey).round().astype(np.uint8)))


def _stem(image: Path) -> str:
    return image.name[: -len(OME_ZARR)] if is_ome_zarr(image) else image.stem


def display_range(image: NDArray[Any]) -> tuple[float, float]:
    """Intensities to show as black and white; NaN pixels do not count."""
    low, high = np.nanpercentile(image, DISPLAY_PERCENTILES)
    return float(low), float(high)
