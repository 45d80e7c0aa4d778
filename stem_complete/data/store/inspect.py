"""What a micrograph store holds, in numbers for programs and readers."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from stem_complete.data.examples import Split
from stem_complete.data.store.layout import VERSION, LeftOut, Source
from stem_complete.data.store.store import MicrographStore


@dataclass(frozen=True)
class StoreSummary:
    """What a store holds.

    Attributes:
        path: Folder of the store.
        version: Version of its layout.
        fingerprint: Hash of what it holds.
        num_crops: Crops.
        crop_size: Side of a crop [px].
        dtype: How crops are stored.
        bytes_on_disk: Size of all its files.
        compression: Size of the pixels over the size on disk.
        crops: Crops in each split.
        files: Files in each split.
        pixel_size_nm: Lowest and highest pixel size [nm] of the crops that have one.
        num_unknown_pixel_size: Crops that have none.
        reasons: Crops left out, by reason.
        sources: Files and signals.
        left_out: Crops left out.
    """

    path: str
    version: int
    fingerprint: str
    num_crops: int
    crop_size: int
    dtype: str
    bytes_on_disk: int
    compression: float
    crops: dict[Split, int]
    files: dict[Split, int]
    pixel_size_nm: tuple[float, float] | None
    num_unknown_pixel_size: int
    reasons: dict[str, int]
    sources: list[Source]
    left_out: list[LeftOut]

    def to_json(self) -> str:
        """The summary as JSON."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False)


def inspect_store(path: str | Path) -> StoreSummary:
    """What the store at `path` holds.

    Raises:
        StoreError: There is no store, or one of a newer version.
    """
    store = MicrographStore(path)
    sources, left_out = store.sources(), store.left_out()
    sizes = store.column("pixel_size_nm")
    known_sizes = sizes[np.isfinite(sizes)]
    bytes_on_disk = sum(file.stat().st_size for file in store.path.rglob("*") if file.is_file())
    bytes_of_pixels = len(store) * store.crop_size**2 * np.dtype(store.dtype).itemsize
    files: dict[Split, set[str]] = {split: set() for split in store.counts}
    for source in sources:
        if source.split:
            files[source.split].add(source.sha256)
    return StoreSummary(
        path=str(store.path),
        version=VERSION,
        fingerprint=store.fingerprint(),
        num_crops=len(store),
        crop_size=store.crop_size,
        dtype=store.dtype,
        bytes_on_disk=bytes_on_disk,
        compression=bytes_of_pixels / bytes_on_disk,
        crops=store.counts,
        files={split: len(hashes) for split, hashes in files.items()},
        pixel_size_nm=(
            (float(known_sizes.min()), float(known_sizes.max())) if known_sizes.size else None
        ),
        num_unknown_pixel_size=int(np.isnan(sizes).sum()),
        # "saturated, 31% of ..." and "saturated, 25% of ..." are one reason.
        reasons=dict(Counter(record.reason.split(",")[0] for record in left_out)),
        sources=sources,
        left_out=left_out,
    )
