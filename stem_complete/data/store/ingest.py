"""Image files -> crops in a micrograph store."""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from itertools import chain, groupby
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from stem_complete.console import counted
from stem_complete.data.examples import Split
from stem_complete.data.formats.micrographs import Micrograph, read_file
from stem_complete.data.formats.scans import read_samples
from stem_complete.data.formats.search import search, unreadable
from stem_complete.data.store.cropping import cut
from stem_complete.data.store.known import Known
from stem_complete.data.store.layout import Compression, LeftOut, Source, StoredDtype
from stem_complete.data.store.splits import NUMBERED, SplitPlan, check_pattern, group_of
from stem_complete.data.store.store import MicrographStore
from stem_complete.data.store.writer import StoredCrop, StoreWriter
from stem_complete.errors import DataError
from stem_complete.extras import program
from stem_complete.files import sha256

# Pixels that wait for their turn while their crops are cut: enough for every core to have work.
_MAX_WAITING_BYTES = 256 * 2**20

_MOST = 0.5  # share of the crops from which on a field of view is too large to be likely

Progress = Callable[[Path, int, int], None]
"""Called before a file is read: with it, how many were read and how many are to be read by now."""


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
    over. What cannot be read is listed and the others go on.

    Files are read twice, unless their crops fit in memory: before the first crop gets its split,
    it must be known which fields of view share an image. While files are read, one after the other,
    threads cut and scale those before. Running the same again completes an interrupted run. No
    store is created if there is no crop to put into it.

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
        progress: Called before a file is read.

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
            progress=progress,
            known=Known(held, pattern),
            plan=SplitPlan(split_fractions, held.sources(), pattern),
        )
        for file in _ahead(steps.read(steps.compare(files))):
            steps.store(file)
        report.notes += steps.notes()
    return report


_Crops = tuple[list[StoredCrop], list[LeftOut]]
"""Crops of a micrograph, and those that are not worth storing."""


class _File(NamedTuple):
    """A file of which the crops are being cut and scaled, by micrograph.

    Attributes:
        path: The file.
        sha256: Hash of its content.
        group: Which files it is of one field of view with, by their names.
        crops: Of its micrographs.
        skipped: What is no image in it.
        damaged: Images that could not be read: by name, why.
    """

    path: Path
    sha256: str
    group: str
    crops: Mapping[Micrograph, Future[_Crops]] = MappingProxyType({})
    skipped: Sequence[str] = ()
    damaged: Mapping[str, str] = MappingProxyType({})

    @property
    def num_bytes(self) -> int:
        return sum(micrograph.pixels.nbytes for micrograph in self.crops)

    @property
    def is_done(self) -> bool:
        return all(crops.done() for crops in self.crops.values())


@dataclass
class _Ingestion:
    """The steps of ingesting: files are read and compared, and stored when their crops are cut.

    Attributes:
        report: What becomes of the files.
        held: The store as it was before.
        writer: Appends to it.
        threads: Cut crops.
        asked: Name of the only signal and number of the only frame to take.
        group_pattern: See `ingest`.
        licences: By file name.
        progress: See `ingest`.
        known: What the store holds by now.
        plan: Which split a field of view belongs to.
    """

    report: IngestReport
    held: MicrographStore
    writer: StoreWriter
    threads: ThreadPoolExecutor
    asked: tuple[str | None, int | None]
    group_pattern: str
    licences: Mapping[str, str]
    progress: Progress | None
    known: Known
    plan: SplitPlan

    def __post_init__(self) -> None:
        self._num_read = self._num_to_read = 0
        self._parted: dict[tuple[str, str], None] = {}

    def compare(self, files: Sequence[Path]) -> list[Path | _File]:
        """Ties fields of view that share an image, so that none of them gets a split of its own.

        Returns:
            Files that can be read, in their order: as they are, if their crops fit in memory.
        """
        compared: list[Path | _File] = []
        num_bytes = 0
        for file in _ahead(self.read(files)):
            self._tie(file)
            num_bytes += file.num_bytes
            fits = num_bytes <= _MAX_WAITING_BYTES or len(files) == 1
            compared.append(file if fits else file.path)
        return compared

    def _tie(self, file: _File) -> None:
        hashes = [crop.pixel_hashes for cut in file.crops.values() for crop in cut.result()[0]]
        for group in self.known.groups_that_share(file.sha256, hashes, file.group):
            if not self.plan.tie(group, file.group):
                self._parted[group, file.group] = None

    def read(self, files: Sequence[Path | _File]) -> Iterator[_File]:
        """The files that can be read, unless they were."""
        self._num_to_read += sum(isinstance(file, Path) for file in files)
        for file in files:
            if isinstance(file, _File):
                yield file
                continue
            if self.progress:
                self.progress(file, self._num_read, self._num_to_read)
            self._num_read += 1
            try:
                yield self._read_file(file)
            except DataError as error:
                self.report.failed[str(file)] = str(error)
            except OSError as error:
                self.report.failed[str(file)] = str(unreadable(file, error))

    def _read_file(self, path: Path) -> _File:
        """The file with what the store does not hold of it, perhaps nothing."""
        sha256, group = content_hash(path), group_of(path, self.group_pattern)
        if self.known.asked_before(sha256, self.asked):
            return _File(path, sha256, group)
        _check_no_scans(path)
        contents = read_file(path, *self.asked)
        new = self.known.new(sha256, contents.micrographs)
        crops = {micrograph: self.threads.submit(self._cut, micrograph) for micrograph in new}
        return _File(path, sha256, group, crops, contents.skipped, contents.damaged)

    def _cut(self, micrograph: Micrograph) -> _Crops:
        crops, left_out = cut(micrograph, self.held.crop_size, self.held.dtype)
        return [self.writer.quantise(crop) for crop in crops], left_out

    def store(self, file: _File) -> None:
        """Appends the crops of a file, all or none."""
        self.report.skipped += [f"{file.path}: {line}" for line in file.skipped]
        self.report.failed |= {f"{file.path}: {name}": why for name, why in file.damaged.items()}
        # Asked again, as a copy of the file may have gone in since it was read.
        new = self.known.new(file.sha256, file.crops)
        if not new:
            self.report.already_there.append(str(file.path))
        parts = [(m, *self._without_duplicates(m, file.crops[m].result())) for m in new]
        sources: list[tuple[Source, list[StoredCrop]]] = []
        left_out: list[LeftOut] = []
        for _, frames in groupby(parts, key=lambda part: part[0].name):
            micrographs, crops, faults = zip(*frames, strict=True)
            kept = list(chain.from_iterable(crops))
            sources.append((self._source(file, micrographs, len(kept)), kept))
            left_out += chain.from_iterable(faults)
        if not self.known.is_of(file.sha256, file.group) and not sources:
            sources.append((self._copy(file), []))
        if sources:
            self.writer.append(sources, left_out)
        self.known.add(source for source, _ in sources)
        if num_crops := sum(source.num_crops for source, _ in sources):
            self.report.added[str(file.path)] = num_crops
        self.report.left_out += left_out

    def _without_duplicates(
        self, micrograph: Micrograph, cut_out: _Crops
    ) -> tuple[list[StoredCrop], list[LeftOut]]:
        """Crops that the store does not hold, and those left out."""
        kept: list[StoredCrop] = []
        crops, left_out = cut_out
        for crop in crops:
            first = self.known.first_with(crop.pixel_hashes, micrograph.path)
            if first is None:
                kept.append(crop)
            else:
                left_out.append(_duplicate(micrograph, crop, first))
        return kept, left_out

    def notes(self) -> list[str]:
        """What to know of the store: fields of view in two splits, in one alone, empty splits."""
        return [*self._note_of_parted(), *(self._note_of_splits() if self.report.num_added else ())]

    def _note_of_parted(self) -> Iterator[str]:
        if self._parted:
            (one, other), *others = self._parted
            more = f", and {counted(len(others), 'pair')} more" if others else ""
            yield (
                f"{one} and {other} share an image{more}, but the store has had them in "
                f"{self.plan.split_of(one)} and {self.plan.split_of(other)}, where they stay; to "
                "have them in one split, ingest all files into a new store"
            )

    def _note_of_splits(self) -> Iterator[str]:
        none_for = f"no crops for {' and '.join(self.plan.empty)}" if self.plan.empty else ""
        largest = self.plan.largest
        if largest.num_files > 1 and (none_for or largest.share > _MOST):
            is_default = self.group_pattern == NUMBERED
            by_name = "the numbers in their names" if is_default else "--group"
            are_numbered = largest.num_files > largest.num_groups
            by = [by_name] * are_numbered + ["images that they share"] * (largest.num_groups > 1)
            parts = [
                f"{largest.num_files} files count as one field of view, {largest.name}, by "
                f"{' and '.join(by)}, so all are in {largest.split}"
            ]
            if none_for:
                parts.append(none_for)
            if are_numbered:
                parts.append(
                    "if they show different fields, ingest them into a new store with "
                    "--group '(.*)'"
                )
            yield "; ".join(parts)
        elif none_for:
            files = counted(self.plan.num_files, "file")
            yield (
                f"{none_for}: a field of view is never split, and {files} "
                f"count{'s' * (self.plan.num_files == 1)} as {self.plan.num_fields}"
            )

    def _source(self, file: _File, frames: Sequence[Micrograph], num_crops: int) -> Source:
        first = frames[0]
        height, width = first.pixels.shape
        if num_crops:
            split: Split | None = self.plan.assign(file.group, file.sha256, num_crops)
        else:
            split = self.plan.split_of(file.group)
        return Source(
            path=str(file.path.absolute()),
            sha256=file.sha256,
            signal=first.name,
            frames=tuple(micrograph.frame for micrograph in frames),
            shape=(height, width),
            dtype=str(first.pixels.dtype),
            pixel_size_nm=first.pixel_size_nm,
            group=self.plan.field_of(file.group),
            split=split,
            licence=self.licences.get(file.path.name),
            num_crops=num_crops,
            asked=self.asked,
        )

    def _copy(self, file: _File) -> Source:
        """A copy in another group, by which files that come later are of one field with it."""
        return replace(
            self.known.source_of(file.sha256),
            path=str(file.path.absolute()),
            group=self.plan.field_of(file.group),
            split=self.plan.split_of(file.group),
            licence=self.licences.get(file.path.name),
            num_crops=0,
        )


def _check_no_scans(path: Path) -> None:
    """Checks that a file holds no scans along a path, whose intensities [k, n] look like an image.

    Raises:
        DataError: It does.
    """
    samples = read_samples(path)
    if samples is None:
        return
    for name, column in samples.columns.items():
        if column.ndim > 1:
            num, length = column.shape
            raise DataError(
                expected="micrographs",
                found=f"{counted(num, 'scan')} of {counted(length, 'sample')} along a path, {name}",
                where=path,
                fix=f"complete them with `{program()} complete`, or leave the file out",
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


def _duplicate(micrograph: Micrograph, crop: StoredCrop, first: str) -> LeftOut:
    return LeftOut(
        str(micrograph.path),
        micrograph.name,
        micrograph.frame,
        int(crop.facts["row"]),
        int(crop.facts["column"]),
        f"a duplicate, the same pixels as in {first}",
    )


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
