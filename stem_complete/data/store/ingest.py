"""Image files -> crops in a micrograph store."""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import chain, groupby
from pathlib import Path
from typing import NamedTuple

from stem_complete.data.formats.micrographs import Micrograph, find_files, read_file
from stem_complete.data.store.cropping import cut
from stem_complete.data.store.layout import LeftOut, Source, StoredDtype
from stem_complete.data.store.shards import Compression
from stem_complete.data.store.splits import CROP_OF_ONE_FIELD, SplitPlan, group_of
from stem_complete.data.store.store import MicrographStore
from stem_complete.data.store.writer import EncodedCrop, StoreWriter
from stem_complete.errors import DataError

# Pixels that wait for their turn while their crops are cut: enough for every core to have work.
_MAX_WAITING_BYTES = 256 * 2**20

Progress = Callable[[Path, int, int], None]
"""Called with a file, its number from 0 and the number of files, before the file is read."""


@dataclass
class IngestReport:
    """What became of the files.

    Attributes:
        store: The store.
        num_files: Files found.
        added: Crops stored of each file of which any were.
        already_there: Files that the store held already.
        left_out: Crops that were not stored, with the reason.
        skipped: What is no image in the files, as "file: name: what it is".
        failed: Files that could not be read, and why.
    """

    store: Path
    num_files: int = 0
    added: dict[str, int] = field(default_factory=dict)
    already_there: list[str] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def num_added(self) -> int:
        """Crops stored."""
        return sum(self.added.values())

    def note(self, file: Path, sources: list[Source], left_out: list[LeftOut]) -> None:
        """Note what became of a file that was read."""
        num_crops = sum(source.num_crops for source in sources)
        if not sources:
            self.already_there.append(str(file))
        elif num_crops:
            self.added[str(file)] = num_crops
        self.left_out += left_out

    def to_json(self) -> str:
        """The report as JSON."""
        values = asdict(self) | {"store": str(self.store), "num_added": self.num_added}
        return json.dumps(values, indent=2, ensure_ascii=False)


def ingest(
    sources: Iterable[str | Path],
    store: str | Path,
    *,
    crop_size: int | None = None,
    split_fractions: Sequence[float] = (0.7, 0.15, 0.15),
    dtype: StoredDtype | None = None,
    compression: Compression | None = None,
    signal: str | None = None,
    frame: int | None = None,
    group_pattern: str = CROP_OF_ONE_FIELD,
    licences: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> IngestReport:
    """Cuts images into crops and appends them to a store, which is created if need be.

    Crops do not overlap; `cropping.cut` tells which are left out. Files that the store holds
    already, judged by their content, are passed over; files that cannot be read are listed and
    the others go on. While files are read, one after the other, threads cut and encode those
    before. Running the same again completes an interrupted run. No store is created if there is
    no crop to put into it.

    Args:
        sources: Files, folders and globs.
        store: Folder of the store.
        crop_size: Side of the crops [px]; None is the store's own, 512 for a new store.
        split_fractions: Shares of train, validation and test. Files are split, not crops.
        dtype: `uint16` or `float32`, see `MicrographStore.create`; None is the store's own,
            uint16 for a new store.
        compression: `lz4`, `zstd` (a few percent smaller, takes several times as long to write and
            1.5 times to read) or `none`; None is the store's own, lz4 for a new store.
        signal: Name of the only signal to take.
        frame: Number of the only frame to take.
        group_pattern: What is ignored at the end of the names of files of one field of view,
            which share their split; by default `_c1`, `_c2`, ...
        licences: Licence by file name, kept with the source.
        progress: Called before each file.

    Raises:
        DataError: No files were found.
        StoreError: The store is busy, of another crop size, dtype or compression, or the disk is
            full.
    """
    files = find_files(sources)
    report = IngestReport(Path(store), num_files=len(files))
    with (
        StoreWriter(store, crop_size, dtype, compression) as writer,
        ThreadPoolExecutor(os.cpu_count()) as threads,
    ):
        held = MicrographStore(store)
        known = _Known(held.sources())
        plan = SplitPlan(split_fractions, held.sources())

        def cut_and_encode(micrograph: Micrograph) -> _Crops:
            crops, left_out = cut(micrograph, held.crop_size, held.dtype)
            return [writer.encode(crop) for crop in crops], left_out

        def read() -> Iterator[_File]:
            for number, file in enumerate(files):
                if progress:
                    progress(file, number, len(files))
                try:
                    sha256 = content_hash(file)
                    if known.asked_before(sha256, signal, frame):
                        report.already_there.append(str(file))
                        continue
                    contents = read_file(file, signal, frame)
                except (DataError, OSError) as error:
                    report.failed[str(file)] = str(error)
                    continue
                report.skipped += [f"{file}: {line}" for line in contents.skipped]
                new = known.new(sha256, contents.micrographs)
                yield _File(file, sha256, {m: threads.submit(cut_and_encode, m) for m in new})

        for file in _ahead(read()):
            group = group_of(file.path, group_pattern)
            batch: list[tuple[Source, list[EncodedCrop]]] = []
            left_out: list[LeftOut] = []
            # Once more, as a copy of the file may have gone in since it was read.
            new = known.new(file.sha256, file.crops)
            for name, frames in groupby(new, key=lambda micrograph: micrograph.name):
                micrographs = list(frames)
                crops, faults = _joined(file.crops[m].result() for m in micrographs)
                source = Source(
                    path=str(file.path),
                    sha256=file.sha256,
                    signal=name,
                    frames=tuple(micrograph.frame for micrograph in micrographs),
                    shape=_shape(micrographs[0]),
                    dtype=str(micrographs[0].pixels.dtype),
                    pixel_size_nm=micrographs[0].pixel_size_nm,
                    group=group,
                    split=plan.assign(group, file.sha256, len(crops)) if crops else None,
                    licence=(licences or {}).get(file.path.name),
                    num_crops=len(crops),
                    asked=(signal, frame),
                )
                batch.append((source, crops))
                left_out += faults
            writer.append(batch, left_out)
            known.add(source for source, _ in batch)
            report.note(file.path, [source for source, _ in batch], left_out)
    return report


_Crops = tuple[list[EncodedCrop], list[LeftOut]]
"""Crops of a micrograph, and those that are not worth storing."""


class _File(NamedTuple):
    """A file of which the crops are being cut and encoded, by micrograph."""

    path: Path
    sha256: str
    crops: dict[Micrograph, Future[_Crops]]

    @property
    def num_bytes(self) -> int:
        return sum(micrograph.pixels.nbytes for micrograph in self.crops)

    @property
    def is_done(self) -> bool:
        return all(crops.done() for crops in self.crops.values())


def _ahead(files: Iterable[_File]) -> Iterator[_File]:
    """The files in order, each when its crops are done or too much waits in memory."""
    waiting: deque[_File] = deque()
    for file in files:
        waiting.append(file)
        while waiting and (
            waiting[0].is_done or sum(file.num_bytes for file in waiting) > _MAX_WAITING_BYTES
        ):
            yield waiting.popleft()
    yield from waiting


def _joined(parts: Iterable[_Crops]) -> _Crops:
    crops, left_out = zip(*parts, strict=True)
    return list(chain.from_iterable(crops)), list(chain.from_iterable(left_out))


class _Known:
    """What a store holds, by content."""

    def __init__(self, sources: Iterable[Source]) -> None:
        self._asked: set[tuple[str, str | None, int | None]] = set()
        self._frames: set[tuple[str, str, int]] = set()
        self.add(sources)

    def add(self, sources: Iterable[Source]) -> None:
        for source in sources:
            self._asked.add((source.sha256, *source.asked))
            self._frames.update((source.sha256, source.signal, n) for n in source.frames)

    def asked_before(self, sha256: str, signal: str | None, frame: int | None) -> bool:
        return (sha256, signal, frame) in self._asked

    def new(self, sha256: str, micrographs: Iterable[Micrograph]) -> list[Micrograph]:
        """Those that the store does not hold."""
        return [m for m in micrographs if (sha256, m.name, m.frame) not in self._frames]


def _shape(micrograph: Micrograph) -> tuple[int, int]:
    height, width = micrograph.pixels.shape
    return height, width


def content_hash(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents of all files of a folder."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    for file_path in sorted(path.rglob("*")):
        if file_path.is_file():
            name = file_path.relative_to(path).as_posix()
            digest.update(f"{name} {content_hash(file_path)}\n".encode())
    return digest.hexdigest()
