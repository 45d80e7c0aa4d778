"""Micrographs that are known in full, and scans of them: what completions are tried on."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from stem_complete.data.examples import Split
from stem_complete.data.formats.micrographs import find_files, read_micrographs
from stem_complete.data.store.cropping import cut
from stem_complete.data.store.ingest import content_hash
from stem_complete.data.store.layout import is_store
from stem_complete.data.store.splits import group_of
from stem_complete.data.store.store import CropRecord, MicrographStore
from stem_complete.errors import DataError
from stem_complete.inference.export import evenly_spread
from stem_complete.scan import ScanSimulator

CROP_SIZE = 512
"""Side of the crops that files of micrographs are cut into [px]."""

RANGE = (-1.0, 1.0)
"""Intensities of every micrograph here; it is the unit of all errors."""

Data = str | Path | Sequence[str | Path]
"""A micrograph store, or files and folders of micrographs."""


class KnownMicrograph(NamedTuple):
    """A crop.

    Attributes:
        name: Of its file, and where in it.
        field: Its field of view; files of one field share it.
        sha256: Hash of its file or folder.
        pixels: [h, w] float32, from -1 to 1.
    """

    name: str
    field: str
    sha256: str
    pixels: NDArray[np.float32]


class KnownScan(NamedTuple):
    """A scan of a known micrograph, all [h, w] and in [-1, 1] by the range of `unblurred`."""

    image: str
    coverage: str
    intensity: NDArray[np.float32]
    dwell: NDArray[np.float32]
    truth: NDArray[np.float32]
    unblurred: NDArray[np.float32]


def load_micrographs(
    data: Data,
    *,
    split: Split = "test",
    max_images: int | None = None,
    max_per_field: int | None = None,
) -> tuple[list[KnownMicrograph], list[str]]:
    """Crops, all of one size, and what was left out, with the reason.

    Args:
        data: Files are cut into crops of 512 px as for a store.
        split: Of the store; files are taken whole.
        max_images: At most so many crops are taken, spread evenly over the data.
        max_per_field: At most so many of each field of view, spread evenly over it.

    Raises:
        DataError: There are no usable micrographs.
    """
    sources = sources_of(data)
    if is_store_alone(data):
        return _from_store(MicrographStore.open(sources[0]), split, max_images, max_per_field), []
    return _from_files(sources, max_images, max_per_field)


def is_store_alone(data: Data) -> bool:
    """Whether `data` is one micrograph store, so that it has splits."""
    sources = sources_of(data)
    return len(sources) == 1 and is_store(Path(sources[0]))


def sources_of(data: Data) -> list[str | Path]:
    """The paths in `data`."""
    return [data] if isinstance(data, str | Path) else list(data)


def simulate(
    micrographs: Sequence[KnownMicrograph], simulator: ScanSimulator, coverage: float
) -> Iterator[KnownScan]:
    """A scan of each micrograph.

    The noise of a crop depends on the simulator's seed and the crop's name, not on its company.
    """
    for micrograph in micrographs:
        name_hash = hashlib.sha256(micrograph.name.encode()).digest()
        position = int.from_bytes(name_hash[:4], "big")
        image = torch.from_numpy(micrograph.pixels)[None, None]
        batch = simulator(image, 0, torch.tensor([position]))
        tensors = (*batch.scan, batch.truth, batch.unblurred)
        yield KnownScan(
            micrograph.name, coverage_label(coverage), *(tensor[0, 0].numpy() for tensor in tensors)
        )


def coverage_label(coverage: float) -> str:
    """Such as 1/17.9."""
    return f"1/{1 / coverage:.3g}"


def _from_files(
    sources: Sequence[str | Path], max_images: int | None, max_per_field: int | None
) -> tuple[list[KnownMicrograph], list[str]]:
    crops: list[KnownMicrograph] = []
    left_out: list[str] = []
    for file in find_files(sources):
        try:
            found = read_micrographs(file)
        except DataError as error:
            left_out.append(str(error))
            continue
        field, sha256 = group_of(file), content_hash(file)
        for micrograph in found:
            kept, refused = cut(micrograph, CROP_SIZE, "float32")
            left_out += [f"{r.path} at {r.row}, {r.column}: {r.reason}" for r in refused]
            parts = [file.stem, micrograph.name, *[str(micrograph.frame)] * (len(found) > 1)]
            name = " ".join(filter(None, parts))
            crops += [
                KnownMicrograph(f"{name} at {c.row}, {c.column}", field, sha256, _scaled(c.pixels))
                for c in kept
            ]
    if not crops:
        raise DataError(
            expected=f"micrographs with contrast, {CROP_SIZE} px or larger",
            found=left_out[0] if left_out else "none",
            where=" ".join(map(str, sources)),
        )
    chosen = _choose([crop.field for crop in crops], max_images, max_per_field)
    return [crops[i] for i in chosen], left_out


def _from_store(
    store: MicrographStore, split: Split, max_images: int | None, max_per_field: int | None
) -> list[KnownMicrograph]:
    indices = store.indices(split)
    if not len(indices):
        raise DataError(
            expected=f"micrographs in the {split} split",
            found=", ".join(f"{count} {name}" for name, count in store.counts.items()),
            where=store.path,
            fix="choose another split, or ingest more files",
        )
    sources, numbers = store.sources(), store.column("source")[indices]
    fields = [sources[number].group for number in numbers]
    chosen = indices[_choose(fields, max_images, max_per_field)]
    return [
        KnownMicrograph(_store_name(record), record.source.group, record.source.sha256, pixels)
        for record, pixels in zip(store.records(chosen), store.read(chosen)[:, 0], strict=True)
    ]


def _store_name(record: CropRecord) -> str:
    source = record.source
    frame = [str(record.frame)] * (len(source.frames) > 1)
    name = " ".join(filter(None, [Path(source.path).stem, source.signal, *frame]))
    return f"{name} at {record.row}, {record.column}"


def _choose(
    fields: Sequence[Hashable], max_images: int | None, max_per_field: int | None
) -> NDArray[np.int64]:
    """Places of the crops that are taken, in order, given the field of each."""
    of_field: dict[Hashable, list[int]] = {}
    for place, field in enumerate(fields):
        of_field.setdefault(field, []).append(place)
    parts = [
        evenly_spread(np.array(places), max_per_field or len(places))
        for places in of_field.values()
    ]
    chosen = np.sort(np.concatenate(parts))
    return evenly_spread(chosen, max_images or len(chosen))


def _scaled(pixels: NDArray[np.floating] | NDArray[np.integer]) -> NDArray[np.float32]:
    """Pixels from -1 to 1."""
    values = pixels.astype(np.float64)
    low, high = float(values.min()), float(values.max())
    scaled: NDArray[np.float32] = (2 * (values - low) / (high - low) - 1).astype(np.float32)
    return scaled
