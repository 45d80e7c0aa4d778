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

from stem_complete.console import counted
from stem_complete.data.formats.micrographs import Micrograph, read_file
from stem_complete.data.formats.search import search, unreadable
from stem_complete.data.store.cropping import cut
from stem_complete.data.store.layout import Compression, LeftOut, Source, StoredDtype
from stem_complete.data.store.pixel_hash import UNKNOWN
from stem_complete.data.store.splits import NUMBERED, SplitPlan, check_pattern, group_of
from stem_complete.data.store.store import MicrographStore
from stem_complete.data.store.writer import StoredCrop, StoreWriter
from stem_complete.errors import DataError
from stem_complete.files import sha256

# Pixels that wait for their turn while their crops are cut: enough for every core to have work.
_MAX_WAITING_BYTES = 256 * 2**20

_MOST = 0.5  # share of the crops from which on a field of view is too large to be likely

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
        failed: Files and folders that could not be read, and why.
        notes: What to know of the store.
    """

    store: Path
    num_files: int = 0
    added: dict[str, int] = field(default_factory=dict)
    already_there: list[str] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

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
    group_pattern: str | None = None,
    licences: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> IngestReport:
    """Cuts images into crops and appends them to a store, which is created if need be.

    Crops do not overlap; `cropping.cut` tells which are left out, and so are those that the store
    holds already, judged by their pixels. Files that it holds, judged by their content, are passed
    over. What cannot be read is listed and the others go on. While files are read, one after the
    other, threads cut and scale those before. Running the same again completes an interrupted run.
    No store is created if there is no crop to put into it.

    Args:
        sources: Files, folders and globs.
        store: Folder of the store.
        crop_size: Side of the crops [px]; None is the store's own, 512 for a new store.
        split_fractions: Shares of train, validation and test. Files are split, not crops.
        dtype: `uint16`, exact for whole numbers that span up to 65,535 levels in a crop and
            otherwise rounded to 1/65,535 of the crop's range, or `float32`; None is the store's
            own, uint16 for a new store.
        compression: `lz4`, `zstd` (a few percent smaller, takes several times as long to write and
            1.5 times to read) or `none`; None is the store's own, lz4 for a new store.
        signal: Name of the only signal to take.
        frame: Number of the only frame to take.
        group_pattern: Regular expression whose groups name a file's field of view, see
            `splits.group_of`. Files of one field share their split. None: those whose names differ
            in a number at the end.
        licences: Licence by file name, kept with the source.
        progress: Called before each file.

    Raises:
        DataError: No files were found.
        ConfigError: The pattern is none, or matches no file.
        BusyError: Another process writes to the store.
        StoreError: The store is of another crop size, dtype or compression, or the disk is
            full.
    """
    pattern = NUMBERED if group_pattern is None else group_pattern
    files, failed = search(sources)
    if not files and len(failed) == 1:
        raise next(iter(failed.values()))
    unnamed = check_pattern(pattern, files)
    report = IngestReport(Path(store), num_files=len(files))
    if unnamed:
        report.notes.append(
            f"--group matches nothing in {len(unnamed)} of {counted(len(files), 'file')}, such as "
            f"{unnamed[0]}; each of these is a field of view of its own"
        )
    report.failed |= {name: str(error) for name, error in failed.items()}
    with (
        StoreWriter(store, crop_size, dtype, compression) as writer,
        ThreadPoolExecutor(os.cpu_count()) as threads,
    ):
        held = MicrographStore(store)
        steps = _Ingestion(
            report=report,
            held=held,
            writer=writer,
            threads=threads,
            asked=(signal, frame),
            group_pattern=pattern,
            licences=licences or {},
            known=_Known(held),
            plan=SplitPlan(split_fractions, held.sources(), pattern),
        )
        for file in _ahead(steps.read(files, progress)):
            steps.store(file)
        report.notes += steps.notes()
    return report


_Crops = tuple[list[StoredCrop], list[LeftOut]]
"""Crops of a micrograph, and those that are not worth storing."""


class _File(NamedTuple):
    """A file of which the crops are being cut and scaled, by micrograph."""

    path: Path
    sha256: str
    crops: dict[Micrograph, Future[_Crops]]

    @property
    def num_bytes(self) -> int:
        return sum(micrograph.pixels.nbytes for micrograph in self.crops)

    @property
    def is_done(self) -> bool:
        return all(crops.done() for crops in self.crops.values())


@dataclass
class _Ingestion:
    """The two halves of ingesting: files are read, and stored when their crops are cut.

    Attributes:
        report: What becomes of the files.
        held: The store as it was before.
        writer: Appends to it.
        threads: Cut crops.
        asked: Name of the only signal and number of the only frame to take.
        group_pattern: See `ingest`.
        licences: By file name.
        known: What the store holds by now.
        plan: Which split a file belongs to.
    """

    report: IngestReport
    held: MicrographStore
    writer: StoreWriter
    threads: ThreadPoolExecutor
    asked: tuple[str | None, int | None]
    group_pattern: str
    licences: Mapping[str, str]
    known: _Known
    plan: SplitPlan

    def read(self, files: Sequence[Path], progress: Progress | None) -> Iterator[_File]:
        """The files that can be read."""
        for number, path in enumerate(files):
            if progress:
                progress(path, number, len(files))
            try:
                file = self._read_file(path)
            except DataError as error:
                self.report.failed[str(path)] = str(error)
            except OSError as error:
                self.report.failed[str(path)] = str(unreadable(path, error))
            else:
                yield file

    def _read_file(self, path: Path) -> _File:
        """The file with what the store does not hold of it, perhaps nothing."""
        sha256 = content_hash(path)
        if self.known.asked_before(sha256, self.asked):
            return _File(path, sha256, {})
        contents = read_file(path, *self.asked)
        self.report.skipped += [f"{path}: {line}" for line in contents.skipped]
        self.report.failed |= {f"{path}: {name}": why for name, why in contents.damaged.items()}
        new = self.known.new(sha256, contents.micrographs)
        return _File(path, sha256, {m: self.threads.submit(self._cut, m) for m in new})

    def _cut(self, micrograph: Micrograph) -> _Crops:
        crops, left_out = cut(micrograph, self.held.crop_size, self.held.dtype)
        return [self.writer.quantise(crop) for crop in crops], left_out

    def store(self, file: _File) -> None:
        """Appends the crops of a file, all or none."""
        # Asked again, as a copy of the file may have gone in since it was read.
        new = self.known.new(file.sha256, file.crops)
        origin = _Origin(str(file.path), group_of(file.path, self.group_pattern))
        parts = [(m, *self._without_twins(m, file.crops[m].result(), origin)) for m in new]
        # Frames of one field of view stay together, also by an image that came with another.
        twins = [twin for _, _, _, twin in parts if twin is not None]
        self.plan.join(origin.group, file.sha256, twins)
        sources: list[tuple[Source, list[StoredCrop]]] = []
        left_out: list[LeftOut] = []
        for _, frames in groupby(parts, key=lambda part: part[0].name):
            micrographs, crops, faults, _ = zip(*frames, strict=True)
            kept = list(chain.from_iterable(crops))
            sources.append((self._source(file, micrographs, len(kept), origin.group), kept))
            left_out += chain.from_iterable(faults)
        if sources:
            self.writer.append(sources, left_out)
        self.known.add(source for source, _ in sources)
        self.report.note(file.path, [source for source, _ in sources], left_out)

    def _without_twins(
        self, micrograph: Micrograph, cut_out: _Crops, origin: _Origin
    ) -> tuple[list[StoredCrop], list[LeftOut], str | None]:
        """Crops that the store does not hold, those left out, and the group of one it holds."""
        kept: list[StoredCrop] = []
        twin = None
        crops, left_out = cut_out
        for crop in crops:
            first = self.known.first_with(crop, origin)
            if first is None:
                kept.append(crop)
            else:
                twin = first.group
                left_out.append(_duplicate(micrograph, crop, first.path))
        return kept, left_out, twin

    def notes(self) -> list[str]:
        """What to know of the store: files that fill one split, splits without crops."""
        if not self.report.num_added:
            return []
        none_for = f"no crops for {' and '.join(self.plan.empty)}" if self.plan.empty else ""
        group = self.plan.largest
        if group.num_files > 1 and (none_for or group.share > _MOST):
            is_default = self.group_pattern == NUMBERED
            by = "the numbers at the end of their names" if is_default else "--group"
            return [
                f"{group.num_files} files count as one field of view, {group.name}, by {by}, so "
                f"all are in {group.split}; {none_for}{'; ' * bool(none_for)}if they show "
                "different fields, ingest them into a new store with --group '(.*)'"
            ]
        if not none_for:
            return []
        files = counted(self.plan.num_files, "file")
        return [
            f"{none_for}: a field of view is never split, and {files} "
            f"count{'s' * (self.plan.num_files == 1)} as {self.plan.num_groups}"
        ]

    def _source(
        self, file: _File, frames: Sequence[Micrograph], num_crops: int, group: str
    ) -> Source:
        first = frames[0]
        height, width = first.pixels.shape
        return Source(
            path=str(file.path),
            sha256=file.sha256,
            signal=first.name,
            frames=tuple(micrograph.frame for micrograph in frames),
            shape=(height, width),
            dtype=str(first.pixels.dtype),
            pixel_size_nm=first.pixel_size_nm,
            group=group,
            split=self.plan.assign(group, file.sha256, num_crops) if num_crops else None,
            licence=self.licences.get(file.path.name),
            num_crops=num_crops,
            asked=self.asked,
        )


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


class _Origin(NamedTuple):
    """Where a crop was seen first: file and field of view."""

    path: str
    group: str


def _duplicate(micrograph: Micrograph, crop: StoredCrop, first: str) -> LeftOut:
    return LeftOut(
        str(micrograph.path),
        micrograph.name,
        micrograph.frame,
        int(crop.facts["row"]),
        int(crop.facts["column"]),
        f"a duplicate, the same pixels as in {first}",
    )


class _Known:
    """What a store holds, by content."""

    def __init__(self, held: MicrographStore) -> None:
        self._asked: set[tuple[str, str | None, int | None]] = set()
        self._frames: set[tuple[str, str, int]] = set()
        sources = held.sources()
        self.add(sources)
        origins = [_Origin(source.path, source.group) for source in sources]
        self._origins = {
            pixel_hash: origins[number]
            for pixel_hash, number in zip(
                held.pixel_hashes().tolist(), held.column("source").tolist(), strict=True
            )
            if pixel_hash != UNKNOWN
        }

    def first_with(self, crop: StoredCrop, origin: _Origin) -> _Origin | None:
        """Where a crop of these pixels was seen before; None if it is the first, from `origin`."""
        first = self._origins.get(crop.pixel_hash)
        if first is None:
            self._origins[crop.pixel_hash] = origin
        return first

    def add(self, sources: Iterable[Source]) -> None:
        for source in sources:
            self._asked.add((source.sha256, *source.asked))
            self._frames.update((source.sha256, source.signal, n) for n in source.frames)

    def asked_before(self, sha256: str, asked: tuple[str | None, int | None]) -> bool:
        return (sha256, *asked) in self._asked

    def new(self, sha256: str, micrographs: Iterable[Micrograph]) -> list[Micrograph]:
        """Those that the store does not hold."""
        return [m for m in micrographs if (sha256, m.name, m.frame) not in self._frames]


def content_hash(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents of all files of a folder."""
    if path.is_file():
        return sha256(path)
    digest = hashlib.sha256()
    for file_path in sorted(path.rglob("*")):
        if file_path.is_file():
            name = file_path.relative_to(path).as_posix()
            digest.update(os.fsencode(f"{name} {sha256(file_path)}\n"))
    return digest.hexdigest()
