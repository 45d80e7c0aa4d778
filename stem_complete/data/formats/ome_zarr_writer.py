"""Writer of OME-Zarr 0.5: an image, or a stack, with its channels, as a pyramid in zarr v3.

<folder>/zarr.json      attributes `ome` (axes, sizes, channels) and `stem_complete`
<folder>/0, 1, ...      [c, y, x] or [t, c, y, x] float32: the image, then means of 2 x 2 pixels

A shard is a channel of an image, or a tile of 4096 x 4096 px of it, in chunks of 512 x 512 px.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

OME_ZARR = ".ome.zarr"
"""Suffix of its folders."""

OWN = "stem_complete"
"""Attribute for what OME-Zarr has no words for."""

_CHUNK_PX, _CHUNKS_IN_SHARD = 512, 8  # along each side
_SMALLEST_PX = 256  # longer side of the last level, up to twice as many


def write_ome_zarr(
    folder: Path,
    channels: Mapping[str, NDArray[np.float32]],
    pixel_size_nm: float | None,
    title: str,
    own: Mapping[str, Any],
) -> None:
    """Writes one image into an empty folder.

    Args:
        folder: The folder.
        channels: By their names, each [h, w], or a stack [n, h, w].
        pixel_size_nm: Side of a pixel [nm], None if unknown: axes then have no unit.
        title: Name of the image.
        own: Attribute `stem_complete`.
    """
    import zarr
    from zarr.codecs import BloscCodec, Crc32cCodec

    level = np.stack(list(channels.values()), axis=-3)
    names = ("t", "c", "y", "x")[-level.ndim :]
    step, unit = pixel_size_nm or 1.0, "nanometer" if pixel_size_nm else None
    labels = [_channel(name, values) for name, values in channels.items()]
    root = zarr.create_group(str(folder))
    datasets: list[dict[str, Any]] = []
    while True:
        number = len(datasets)
        sides = [min(_CHUNK_PX, side) for side in level.shape[-2:]]
        in_shard = [
            side * min(_CHUNKS_IN_SHARD, -(-whole // side))
            for side, whole in zip(sides, level.shape[-2:], strict=True)
        ]
        single = (1,) * (level.ndim - 2)
        array = root.create_array(
            str(number),
            shape=level.shape,
            dtype="float32",
            chunks=(*single, *sides),
            shards=(*single, *in_shard),
            compressors=[BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle"), Crc32cCodec()],
            fill_value=0,
            dimension_names=names,
            config={"write_empty_chunks": True},  # so that what is there can be told by its names
        )
        array[:] = level
        datasets.append(_dataset(number, step, level.ndim))
        if max(level.shape[-2:]) < 2 * _SMALLEST_PX:
            break
        level = _halved(level)
    ome: dict[str, Any] = {
        "version": "0.5",
        "multiscales": [
            {
                "name": title,
                "axes": [_axis(name, unit) for name in names],
                "datasets": datasets,
                "type": "mean",
                "metadata": {"description": "means of 2 x 2 pixels, the last row or column twice"},
            }
        ],
        "omero": {"channels": labels},
    }
    root.attrs.put({"ome": ome, OWN: dict(own)})


def read_own(folder: Path) -> dict[str, Any]:
    """Attribute `stem_complete` of an image; empty if there is none.

    Args:
        folder: The image; a `UPath` if it lies on an object store.

    Raises:
        OSError: There is no image.
        ValueError: What is there is no JSON.
    """
    import json

    attributes = json.loads((folder / "zarr.json").read_bytes()).get("attributes", {})
    return dict(attributes.get(OWN) or {})


def _axis(name: str, unit: str | None) -> dict[str, str]:
    if name in "tc":
        return {"name": name, "type": {"t": "time", "c": "channel"}[name]}
    return {"name": name, "type": "space", **({"unit": unit} if unit else {})}


def _dataset(number: int, step: float, num_axes: int) -> dict[str, Any]:
    """A level of the pyramid: the centre of its first pixel is that of 2^number pixels a side."""
    factor = 2**number
    others = [1.0] * (num_axes - 2)
    shift = step * (factor - 1) / 2
    return {
        "path": str(number),
        "coordinateTransformations": [
            {"type": "scale", "scale": [*others, step * factor, step * factor]},
            {"type": "translation", "translation": [*(0.0 for _ in others), shift, shift]},
        ],
    }


def _channel(label: str, values: NDArray[np.float32]) -> dict[str, Any]:
    low, high = (float(each) for each in np.nanpercentile(values, (0.5, 99.5)))
    least, most = float(np.nanmin(values)), float(np.nanmax(values))
    window = {"start": low, "end": high, "min": least, "max": most}
    return {"label": label, "color": "FFFFFF", "active": label != "error", "window": window}


def _halved(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Means of 2 x 2 pixels [..., h, w]; of an odd side the last one counts twice."""
    odd = [(0, side % 2 if side > 1 else 0) for side in image.shape[-2:]]
    image = np.pad(image, [(0, 0)] * (image.ndim - 2) + odd, mode="edge")
    for axis in (-2, -1):
        if image.shape[axis] > 1:
            first, second = (image.take(range(i, image.shape[axis], 2), axis) for i in (0, 1))
            image = (first + second) * np.float32(0.5)
    return image
