"""What a file holds: signals, each one image or a stack of frames, and what is no image."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stem_complete.data.about import NOTHING, About
from stem_complete.data.formats.axes import Arrangement, Axis, NoImageError, by_axes, by_position
from stem_complete.data.formats.chunks import Region, absent_regions


class Hole(NamedTuple):
    """A part of a frame that the file does not hold, and that reads as zeros or the like.

    Attributes:
        rows: Its rows.
        columns: Its columns.
    """

    rows: slice
    columns: slice


class Signal(NamedTuple):
    """One detector's images.

    Attributes:
        name: Its name in the file, "" where the file gives none.
        frames: Pixels [n, h, w] in the file's dtype.
        first: Number of `frames[0]` in the file.
        pixel_size_nm: Side of a pixel [nm], if the file states it.
        about: What the file says of it beside.
        holes: Parts of frames that the file does not hold, by the place in `frames`.
    """

    name: str
    frames: NDArray[Any]
    first: int
    pixel_size_nm: float | None
    about: About = NOTHING
    holes: Mapping[int, Sequence[Hole]] = MappingProxyType({})


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
        passed_over: Vectors and numbers beside images, likewise: axes and the like, no news.
        damaged: Images that could not be read, by name.
        names: Every image signal of the file, taken or not.
    """

    signal: str | None = None
    frame: int | None = None
    masks: bool = False
    signals: list[Signal] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    passed_over: list[str] = field(default_factory=list)
    damaged: dict[str, Exception] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)

    def skip(self, name: str, reason: str) -> None:
        """Note a signal that is no image."""
        self.skipped.append(f"{name}: {reason}" if name else reason)

    @contextmanager
    def apart(self, name: str) -> Iterator[None]:
        """Notes what goes wrong in a block as damage of one signal, so that the others go on."""
        try:
            yield
        except FrameError:
            raise
        except Exception as error:
            self.damaged[name] = error

    def pass_over(self, name: str, shape: tuple[int, ...]) -> None:
        """Note a vector or a number in a tree of arrays."""
        self.passed_over.append(f"{name}: {len(shape)}-D data {shape}")

    def offer(
        self,
        name: str,
        data: Any,
        pixel_size_nm: float | None = None,
        *,
        axes: Sequence[Axis] | None = None,
        kind: str = "",
        about: About = NOTHING,
    ) -> None:
        """Take `data`, anything array-like, if it is an image that was asked for.

        Only what is taken is loaded. Of an array of which no axes are given, [h, w] and [n, h, w]
        are images, and so are colour images [h, w, 1, 3 or 4] whose colours are equal. Fields of a
        structured array are signals, and so are channels.

        Args:
            name: Name of the signal.
            data: Array.
            pixel_size_nm: Side of a pixel [nm], where no axes tell it.
            axes: Its dimensions, if the file describes them.
            kind: HyperSpy's signal type, "" if there is none.
            about: What the file says of it beside.
        """
        dtype = np.dtype(data.dtype)
        for field_name in dtype.names or ():
            part = f"{name} {field_name}".strip()
            self.offer(part, data[field_name], pixel_size_nm, axes=axes, kind=kind, about=about)
        if dtype.names:
            return
        stored, shape = data, tuple(data.shape)
        try:
            self._check(shape, dtype)
            if axes is None and _is_grey(shape, data):
                data, shape = np.asarray(data)[..., 0], shape[:2]
            arranged = by_axes(shape, axes, kind) if axes else by_position(shape, pixel_size_nm)
        except NoImageError as reason:
            self.skip(name, str(reason))
            return
        channels = list(np.ndindex(*(shape[i] for i in arranged.channels)))
        for channel in channels:
            own = _channel_name(axes or (), arranged, channel, len(channels))
            part = f"{name} {own}".strip()
            with self.apart(part):
                self._take(part, data, arranged, channel, about, stored)

    def offer_colours(
        self, name: str, image: NDArray[Any], axes: Sequence[Axis] | None = None
    ) -> None:
        """Take an image whose last dimension is colours, if these are equal and opaque.

        Args:
            name: Name of the signal.
            image: Grey or colour image, with opacity as its second or fourth value, [..., 1 to 4].
            axes: All dimensions but the colours, if the file describes them.
        """
        colours = image[..., : 1 if image.shape[-1] < 3 else 3]
        opacity = image[..., colours.shape[-1] :]
        opaque = np.iinfo(image.dtype).max if image.dtype.kind in "iu" else 1
        if (opacity != opaque).any():
            self.skip(
                name,
                "an image with transparent pixels; save its grey values and its transparency "
                "(alpha) as greyscale images of their own",
            )
        elif (colours != colours[..., :1]).any():
            self.skip(name, "a colour image; convert it to greyscale, or save detectors one by one")
        else:
            self.offer(name, colours[..., 0], axes=axes)

    def _check(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        if dtype.kind == "c":
            raise NoImageError(f"{dtype} values; save their magnitude or phase")
        if dtype.kind == "b" and not self.masks:
            raise NoImageError("bool values, a mask without intensities")
        if dtype.kind not in "iufb":
            raise NoImageError(f"{dtype} values")
        if not all(shape):
            raise NoImageError(f"no pixels, shape {shape}")

    def _own_name(self, name: str) -> str:
        numbered = (f"{name} {number}".strip() for number in itertools.count(2))
        return next(own for own in itertools.chain([name], numbered) if own not in self.names)

    def _take(
        self,
        name: str,
        data: Any,
        arranged: Arrangement,
        channel: tuple[int, ...],
        about: About,
        stored: Any,
    ) -> None:
        name = self._own_name(name)
        self.names.append(name)
        if self.signal is not None and self.signal != name:
            return
        frame_shape = tuple(data.shape[i] for i in arranged.frames)
        num_frames = int(np.prod(frame_shape, dtype=int))
        if self.frame is not None and not 0 <= self.frame < num_frames:
            raise FrameError(f"a frame from 0 to {num_frames - 1}")
        chosen = dict(zip(arranged.channels, channel, strict=True))
        if self.frame is not None:
            numbers = np.unravel_index(self.frame, frame_shape) if frame_shape else ()
            chosen |= {i: int(number) for i, number in zip(arranged.frames, numbers, strict=True)}
        kept_shape = [size for i, size in enumerate(data.shape) if i not in chosen]
        require_memory(kept_shape, data.dtype)
        # A copy, as the array may be a view of a file that is closed before anyone looks.
        pixels = np.array(data[tuple(chosen.get(i, slice(None)) for i in range(len(data.shape)))])
        kept = [i for i in range(len(data.shape)) if i not in chosen]
        order = [i for i in kept if i in arranged.frames] + [arranged.rows, arranged.columns]
        pixels = pixels.transpose([kept.index(i) for i in order])
        if pixels.dtype == bool:
            pixels = pixels.astype(np.uint8)
        frames = pixels.reshape(-1, *pixels.shape[-2:])
        size_nm = arranged.pixel_size_nm
        holes = _holes(absent_regions(stored, chosen), data.shape, arranged, chosen)
        self.signals.append(Signal(name, frames, self.frame or 0, size_nm, about, holes))


class TooLargeError(MemoryError):
    """Says of an image how large it is, if that is too much for this machine."""


def require_memory(shape: Sequence[int], dtype: np.dtype[Any]) -> None:
    """Raises TooLargeError if an array and a copy of it do not fit in memory.

    The system would not refuse: it ends the process once the pixels are written.
    """
    num_bytes = math.prod(shape) * dtype.itemsize
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if 2 * num_bytes > memory:
        raise TooLargeError(
            f"shape {tuple(shape)} of {dtype}, {num_bytes / 2**30:,.0f} GiB twice over, "
            f"of {memory / 2**30:,.0f} GiB"
        )


def _holes(
    absent: Sequence[Region], shape: Sequence[int], arranged: Arrangement, chosen: Mapping[int, int]
) -> dict[int, list[Hole]]:
    """What is absent of each frame, of the part of an array that has the chosen indices."""
    holes: dict[int, list[Hole]] = {}
    stacked = [i for i in arranged.frames if i not in chosen]
    sizes = [shape[i] for i in stacked]
    for region in absent:
        of_frames = (range(*region[i].indices(shape[i])) for i in stacked)
        for place in itertools.product(*of_frames):
            frame = int(np.ravel_multi_index(place, sizes)) if place else 0
            hole = Hole(region[arranged.rows], region[arranged.columns])
            holes.setdefault(frame, []).append(hole)
    return holes


def _is_grey(shape: tuple[int, ...], data: Any) -> bool:
    """Whether it is a colour image [h, w, 1, 3 or 4] whose colours are equal."""
    if len(shape) != 3 or shape[2] not in (1, 3, 4) or min(shape[:2]) <= 4:
        return False
    require_memory(shape, data.dtype)
    pixels = np.asarray(data)
    opaque = bool((pixels[..., 3:] == pixels[0, 0, 3:]).all())
    return opaque and bool((pixels[..., :3] == pixels[..., :1]).all())


def _channel_name(
    axes: Sequence[Axis], arranged: Arrangement, channel: tuple[int, ...], num_channels: int
) -> str:
    names = []
    for i, number in zip(arranged.channels, channel, strict=True):
        labels = axes[i].labels
        if number < len(labels):
            names.append(labels[number])
        elif num_channels > 1:
            names.append(f"channel {number}")
    return " ".join(names)
