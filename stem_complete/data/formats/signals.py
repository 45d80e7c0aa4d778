"""What a file holds: signals, each one image or a stack of frames, and what is no image."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Signal(NamedTuple):
    """One detector's images.

    Attributes:
        name: Its name in the file, "" where the file gives none.
        frames: Pixels [n, h, w] in the file's dtype.
        first: Number of `frames[0]` in the file.
        pixel_size_nm: Side of a pixel [nm], if the file states it.
    """

    name: str
    frames: NDArray[Any]
    first: int
    pixel_size_nm: float | None


class FrameError(IndexError):
    """A frame was asked for that a signal does not have."""


@dataclass
class Contents:
    """Signals of a file that were asked for, filled by the readers through `offer`.

    Args:
        signal: Name of the signal to take; None takes all.
        frame: Number of the frame to take; None takes all.
        masks: Whether truth values are images too, of 0 and 1.

    Attributes:
        signals: What was taken.
        skipped: What is no image, as "name: reason".
        names: Every image signal of the file, taken or not.
    """

    signal: str | None = None
    frame: int | None = None
    masks: bool = False
    signals: list[Signal] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)

    def skip(self, name: str, reason: str) -> None:
        """Note a signal that is no image."""
        self.skipped.append(f"{name}: {reason}" if name else reason)

    def offer(self, name: str, data: Any, pixel_size_nm: float | None = None) -> None:
        """Take `data`, anything array-like, if it is an image that was asked for.

        Only what is taken is loaded. Arrays [h, w] and [n, h, w] are images; so are colour images
        [h, w, 3 or 4] whose colour channels are equal.
        """
        shape = tuple(data.shape)
        # Writers of five-dimensional images (OME) leave the axes they do not use at length 1.
        if len(shape) > 3 and all(size == 1 for size in shape[:-3]):
            data, shape = data[(0,) * (len(shape) - 3)], shape[-3:]
        reason = self._no_image(shape, np.dtype(data.dtype))
        if reason:
            self.skip(name, reason)
            return
        colour = len(shape) == 3 and shape[2] in (3, 4) and min(shape[:2]) > 4
        if colour:
            pixels = np.asarray(data)
            if (pixels[..., :3] != pixels[..., :1]).any():
                self.skip(name, "a colour image; convert it to greyscale")
                return
            data = pixels[..., 0]
        self._take(name, data, pixel_size_nm)

    def _take(self, name: str, data: Any, pixel_size_nm: float | None) -> None:
        if name in self.names:
            name = f"{name} {self.names.count(name) + 1}"
        self.names.append(name)
        if self.signal is not None and self.signal != name:
            return
        num_frames = data.shape[0] if len(data.shape) == 3 else 1
        if self.frame is not None and not 0 <= self.frame < num_frames:
            raise FrameError(f"a frame from 0 to {num_frames - 1}")
        if self.frame is not None and len(data.shape) == 3:
            data = data[self.frame]
        # A copy, as the array may be a view of a file that is closed before anyone looks.
        pixels = np.array(data)
        if pixels.dtype == bool:
            pixels = pixels.astype(np.uint8)
        frames = pixels if pixels.ndim == 3 else pixels[None]
        self.signals.append(Signal(name, frames, self.frame or 0, pixel_size_nm))

    def _no_image(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> str | None:
        if len(shape) not in (2, 3):
            return f"{len(shape)}-D data {shape}"
        if dtype.kind not in ("iufb" if self.masks else "iuf"):
            return f"{dtype} values"
        return None if all(shape) else f"no pixels, shape {shape}"
