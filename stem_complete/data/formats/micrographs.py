"""Files -> micrographs: what each file holds.

TIFF, PNG, NPY, NPZ, HDF5 and zarr are read as they are, microscopes' own formats with the extra
`microscopy`. Pixels keep the file's values and dtype, in the machine's byte order.
"""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stem_complete.console import counted
from stem_complete.data.about import NOTHING, About
from stem_complete.data.formats.damage import damage
from stem_complete.data.formats.readers import reader_of
from stem_complete.data.formats.signals import Contents, FrameError, Hole, TooLargeError
from stem_complete.errors import DataError
from stem_complete.extras import install_command


@dataclass(frozen=True, eq=False)
class Micrograph:
    """One image.

    Attributes:
        pixels: Intensities [h, w] in detector units, integer or real; may hold NaN or Inf.
        pixel_size_nm: Side of a pixel [nm], None if the file does not state it.
        name: Name of its signal in the file, "" where there is none.
        frame: Its number in the signal's stack, 0 for a single image.
        path: Its file.
        about: What its file says of it beside.
        holes: Parts of it that the file does not hold.
    """

    pixels: NDArray[Any]
    pixel_size_nm: float | None
    name: str
    frame: int
    path: Path
    about: About = NOTHING
    holes: Sequence[Hole] = ()


class FileContents(NamedTuple):
    """Micrographs of a file, and what else it holds, as lines "name: what it is".

    Attributes:
        micrographs: The images.
        skipped: What is no image.
        damaged: Images that could not be read, beside others that could: by name, why.
    """

    micrographs: list[Micrograph]
    skipped: list[str]
    damaged: dict[str, str]


def read_file(
    path: Path, signal: str | None = None, frame: int | None = None, *, masks: bool = False
) -> FileContents:
    """Every STEM image of a file and a list of what is none, such as spectra and colour images.

    Args:
        path: File, or folder of a zarr store.
        signal: Name of the only signal to read.
        frame: Number of the only frame to read of each signal.
        masks: Whether truth values are read too, as 0 and 1.

    Raises:
        DataError: The file is missing, damaged, of another format, or holds no image; or the
            signal or frame that was asked for is not in it.
    """
    path = Path(path)
    reader = reader_of(path)
    contents = Contents(signal, frame, masks)
    # What readers warn of (odd tags, files they close late) is nothing the user can act on.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            reader(path, contents)
        except DataError:
            raise
        except Exception as error:  # damaged files make readers fail in any way
            traceback.clear_frames(error.__traceback__)  # closes the files it left open
            raise _data_error(error, path, frame) from error
    if contents.damaged and not contents.signals:
        cause = next(iter(contents.damaged.values()))
        raise _data_error(cause, path, frame) from cause
    if not contents.names:
        raise DataError(
            expected="an image [h, w] or a stack of images [n, h, w] of real numbers",
            found=_summary(contents.skipped or contents.passed_over),
            where=path,
            fix="choose another file, or save its image as float32 TIFF",
        )
    if not contents.signals:
        raise DataError(
            expected=f"a signal among {', '.join(map(repr, contents.names))}",
            found=f"{signal!r} asked for",
            where=path,
            fix="choose one of these",
        )
    micrographs = [
        Micrograph(
            _native(pixels),
            taken.pixel_size_nm,
            taken.name,
            taken.first + number,
            path,
            taken.about,
            taken.holes.get(number, ()),
        )
        for taken in contents.signals
        for number, pixels in enumerate(taken.frames)
    ]
    damaged = {
        name: str(_data_error(error, path, frame)) for name, error in contents.damaged.items()
    }
    return FileContents(micrographs, contents.skipped, damaged)


def read_micrographs(
    path: Path, signal: str | None = None, frame: int | None = None
) -> list[Micrograph]:
    """Every STEM image of a file, or of one signal or frame of it; see `read_file`."""
    return read_file(path, signal, frame).micrographs


def read_micrograph(path: Path, signal: str | None = None, frame: int | None = None) -> Micrograph:
    """The one image of a file, all finite and not constant.

    Raises:
        DataError: As `read_file`; or there are several images, or NaN, Inf or one value only.
    """
    micrographs = read_micrographs(path, signal, frame)
    if len(micrographs) > 1:
        names = list(dict.fromkeys(micrograph.name for micrograph in micrographs))
        raise DataError(
            expected="one image",
            found=f"{len(micrographs)} (signals {', '.join(map(repr, names))})",
            where=path,
            fix="name the signal and the frame to read",
        )
    return require_image(micrographs[0])


def require_image(micrograph: Micrograph) -> Micrograph:
    """The micrograph, if it is all finite and not constant.

    Raises:
        DataError: It holds NaN, Inf or one value only.
    """
    pixels = micrograph.pixels
    num_bad = pixels.size - np.count_nonzero(np.isfinite(pixels))
    if num_bad:
        raise DataError(
            expected="finite intensities",
            found=f"{num_bad} of {counted(pixels.size, 'pixel')} NaN or Inf",
            where=micrograph.path,
            fix="crop the image to where it was measured, or complete it as a partial scan first",
        )
    if pixels.min() == pixels.max():
        raise DataError(
            expected="an image with contrast",
            found=f"the value {pixels.flat[0]} in every pixel",
            where=micrograph.path,
            fix="leave it out: the detector was off, or saturated",
        )
    return micrograph


def _data_error(error: Exception, path: Path, frame: int | None) -> DataError:
    if isinstance(error, FrameError):
        return DataError(
            expected=str(error),
            found=f"frame {frame} asked for",
            where=path,
            fix="choose one of these",
        )
    if isinstance(error, ModuleNotFoundError) and (error.name or "").startswith("rsciio"):
        return DataError(
            expected=f"RosettaSciIO, which reads {path.suffix} files",
            found="that it is not installed",
            where=path,
            fix=install_command("rsciio"),
        )
    if isinstance(error, TooLargeError):
        return DataError(
            expected="an image or stack that fits in memory",
            found=str(error),
            where=path,
            fix="save it in parts, or take one frame of a stack",
        )
    return DataError(
        expected=f"a readable {path.suffix or 'zarr'} file",
        **damage(path, error)._asdict(),
        where=path,
    )


def _summary(skipped: list[str], longest: int = 3) -> str:
    more = [f"and {len(skipped) - longest} more"] * (len(skipped) > longest)
    return ", ".join([*skipped[:longest], *more]) or "no data"


def _native(pixels: NDArray[Any]) -> NDArray[Any]:
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
