"""A batch: which units are to be done, what becomes of each, and what is remembered of it.

    find scans -> hold the destination -> leave out what the manifest says is done -> workers
    each outcome: manifest, then report

A unit counts once the manifest has it, and the manifest gets it once all its files are in place. So
whatever is killed in between costs the units under way, which come out the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stem_complete.data.scan_options import AS_STORED, ScanOptions
from stem_complete.errors import ConfigError, Failure, StemCompleteError
from stem_complete.files import DRAFT, REPLACED
from stem_complete.inference.complete import Progress
from stem_complete.inference.completer import Completer
from stem_complete.inference.image_files import IMAGE_ALONE, Outputs
from stem_complete.serving.batch.destinations import destination_for
from stem_complete.serving.batch.files import CompletedFiles
from stem_complete.serving.batch.in_process import InProcess
from stem_complete.serving.batch.manifest import FailureList, record_of
from stem_complete.serving.batch.reading import Reader
from stem_complete.serving.batch.sources import Found, absolute, find_sources
from stem_complete.serving.batch.units import (
    MOST_SCANS,
    Destination,
    Outcome,
    Parcel,
    Pool,
    Unit,
)
from stem_complete.serving.batch.worker import Job
from stem_complete.serving.batch.worst import Worst
from stem_complete.storage.claim import CLAIM_FILE, Claim, Use, claimed
from stem_complete.storage.manifest import FOLDER, Manifest, Record
from stem_complete.storage.paths import (
    clear_errors,
    is_local,
    list_folder,
    remove,
    storage_path,
)
from stem_complete.vocabulary import CompletionFormat

if TYPE_CHECKING:
    from stem_complete.serving.batch.shards import CompletionArrays

TIMEOUT_S = 3600.0
"""Longest time for a unit, a file or a shard [s], unless the user gives another one."""

ERRORS = "errors.jsonl"

_USE = Use("the output", "completes scans to it", "choose another output")


@dataclass
class CompleteReport:
    """What became of the scans. Files are named as they were found.

    Attributes:
        done: Completed image of each scan that was completed.
        skipped: Completed image of each scan that had one already.
        failed: Why a scan could not be read or completed, and the fix.
        notes: What to know of a completed scan.
    """

    done: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def num_settled(self) -> int:
        """Number of scans of which it is known what became of them."""
        return len(self.done) + len(self.skipped) + len(self.failed)


def complete_files(
    scans: Sequence[str | Path],
    completer: Completer | Pool,
    output: str | Path,
    *,
    dwell: str | Path | None = None,
    along: str | Path | None = None,
    options: ScanOptions = AS_STORED,
    published: bool = False,
    outputs: Outputs = IMAGE_ALONE,
    file_format: CompletionFormat | None = None,
    batch_size: int | None = None,
    scans_in_shard: int = MOST_SCANS,
    timeout_s: float = TIMEOUT_S,
    progress: Progress | None = None,
    each: Callable[[Unit, Outcome], None] | None = None,
) -> CompleteReport:
    """Completes partial scans; those that are done already are passed over.

    Scans that cannot be read are listed and the others go on. The same call again completes what is
    missing after an interruption, and what was made from other bytes, by another model or with
    other options, which a note tells; arrays are of one model and one set of options. Scans of one
    file become one stack of images, those of a zarr array an image each.

    Args:
        scans: Files, folders, globs, lists and zarr arrays; see `find_sources`.
        completer: The model, or workers that have it.
        output: Path or URL of a folder for `<name>_completed.tif`, of a `.tif`, `.npy`, `.hspy`
            or `.ome.zarr` for a single scan, or of a `.zarr`.
        dwell: File, folder or pattern of the dwell maps; see `plan_files`.
        along: Likewise of the paths of scans that have no positions.
        options: What the files do not say.
        published: The files are encoded as those that the authors of partial-STEM published.
        outputs: What is written beside the completed images.
        file_format: Of the output; None: as its name says, else TIFF.
        batch_size: As for `complete_scans`, of a `Completer`.
        scans_in_shard: Most scans in a shard of arrays.
        timeout_s: Longest time that a unit, a file or a shard, may take [s].
        progress: Called after each scan.
        each: Called after each unit.

    Raises:
        ConfigError: The arguments do not go together, or arrays are of another model.
        DataError: There is no scan at all, or the output cannot be written.
        BusyError: Another process completes scans to the same output.
        StorageError: The output cannot be read or written.
    """
    pool = InProcess(completer, batch_size) if isinstance(completer, Completer) else completer
    _check_arguments(pool, dwell, along, published=published, error_map=outputs.error_map)
    destination = destination_for(str(output), file_format, outputs, scans_in_shard)
    found = find_sources(scans, dwell, along, options.signal)
    report = CompleteReport(failed=_told(found.failed))
    if not found.sources:
        return report
    with _held(destination) as claim, closing(Reader(options, published=published)) as reader:
        batch = _Batch(pool, destination, options, report, claim, progress, each)
        batch.run(found, reader, timeout_s)
    return report


@contextmanager
def _held(destination: CompletedFiles | CompletionArrays) -> Iterator[Claim | None]:
    """Holds a destination for the block; one named image needs no hold, as it is whole or not."""
    if _is_one_file(destination):
        yield None
        return
    # Workers, whose working folder is another one, look for the claim, too.
    folder = storage_path(absolute(destination.folder))
    claims = folder / FOLDER
    with clear_errors(folder):
        was_killed = any(path.name == CLAIM_FILE for path in list_folder(claims))
    with claimed(claims, use=_USE) as claim:
        if was_killed and is_local(folder):
            for prefix in (DRAFT, REPLACED):
                for draft in list(Path(str(folder)).rglob(f"{prefix}*")):
                    remove(storage_path(draft))
        yield claim


def _is_one_file(destination: Destination) -> bool:
    return isinstance(destination, CompletedFiles) and destination.image_name is not None


class _Batch:
    """One call of `complete_files`, once it holds its destination."""

    def __init__(
        self,
        pool: Pool,
        destination: CompletedFiles | CompletionArrays,
        options: ScanOptions,
        report: CompleteReport,
        claim: Claim | None,
        progress: Progress | None,
        each: Callable[[Unit, Outcome], None] | None,
    ) -> None:
        self.pool, self.destination, self.options = pool, destination, options
        self.report, self.claim, self.progress, self.each = report, claim, progress, each
        self.folder = storage_path(destination.folder)
        self.total = 0
        self.failures = FailureList(self.folder / ERRORS)
        self.worst = Worst()

    def run(self, found: Found, reader: Reader, timeout_s: float) -> None:
        """Does what is not done."""
        outputs, one_file = self.destination.outputs, _is_one_file(self.destination)
        if one_file:
            _check_one(found, self.destination)
        settings = (
            f"{self.options} published={reader.published} precision={self.pool.precision} "
            f"self_check={outputs.self_check} keep_measured={outputs.keep_measured}"
        )
        model = self.pool.card.weights_sha256
        made_from = {"model": model, "options": hashlib.sha256(settings.encode()).hexdigest()}
        manifest = Manifest(self.folder / FOLDER)
        if outputs.overwrite and not one_file:
            manifest.clear()
        records = {} if one_file else manifest.read()
        told = {"precision": self.pool.precision, "published": reader.published}
        told |= {k: v for k, v in asdict(self.options).items() if v is not None}
        if isinstance(self.destination, CompletedFiles):
            self.destination = self.destination._replace(options=told)
        units = self._units(found, records, reader, made_from["options"], told)
        self.total = sum(len(unit.scans) for unit in units) + len(found.failed)
        self.report.failed = _told(found.failed)
        self.failures.failures = found.failed
        todo = self._not_done(units, made_from)
        job = Job(
            self.destination,
            self.options,
            reader.published,
            made_from,
            self.pool.batch_size,
            self.claim,
        )
        parcels = self._parcels(todo)
        outcomes: Iterable[tuple[Parcel, list[Outcome]]] = self.pool.run(job, parcels, timeout_s)
        if one_file:
            self._settle_all(outcomes, lambda _unit, _outcome: None)
            return
        self.failures.write()  # those of the run before are tried again
        try:
            with manifest:
                self._settle_all(
                    outcomes,
                    lambda unit, outcome: manifest.add(record_of(unit, outcome, **made_from)),
                )
        except BaseException:
            with suppress(StemCompleteError):  # the disk may be full
                self.failures.write()
            raise
        self.failures.write()
        if self.report.done:
            self.worst.draw(self.destination, self.folder)

    def _settle_all(
        self,
        outcomes: Iterable[tuple[Parcel, list[Outcome]]],
        remember: Callable[[Unit, Outcome], None],
    ) -> None:
        for parcel, of_units in outcomes:
            for unit, outcome in zip(parcel, of_units, strict=True):
                if any(result.state != "failed" for result in outcome.results):
                    remember(unit, outcome)
                self._settle(unit, outcome)

    def _units(
        self,
        found: Found,
        records: dict[str, Record],
        reader: Reader,
        options: str,
        told: dict[str, Any],
    ) -> list[Unit]:
        if isinstance(self.destination, CompletedFiles):
            return list(self.destination.units(found.sources, records, reader, found.failed))
        self.destination.prepare(self.pool.card, options, told)
        return self.destination.units(found.sources, records, reader, found.failed)

    def _not_done(self, units: Sequence[Unit], made_from: dict[str, str]) -> list[Unit]:
        """Units that a worker must look at."""
        size_of = self._sizes()
        todo = []
        for unit in units:
            record = unit.before
            is_done = (
                record is not None
                and not self.destination.outputs.overwrite
                and all(record[name] == made_from[name] for name in made_from)
                and len(unit.trusted) == len(unit.scans)
                and {scan["row"] for scan in record["scans"]} == set(unit.rows)
                and all(
                    name in record["files"] and size_of(name) == record["files"][name][0]
                    for name in self.destination.wanted(unit)
                )
            )
            if not is_done:
                todo.append(unit)
                continue
            assert record is not None
            for place, source in enumerate(unit.scans):
                self.report.skipped[str(source)] = self._image_of(unit, place)
                self.worst.add(unit, place, record["scans"][place].get("misfit"))
                self._tell()
        return todo

    def _sizes(self) -> Callable[[str], int | None]:
        """What tells the size of a file below the destination; None if there is none."""
        if is_local(self.folder):
            folder = Path(str(self.folder))

            def size_of(name: str) -> int | None:
                try:
                    return (folder / name).stat().st_size
                except OSError:
                    return None

            return size_of
        with clear_errors(self.folder):
            root = self.folder.path.strip("/")
            found = self.folder.fs.find(self.folder.path, detail=True)
        sizes = {
            name.strip("/").removeprefix(f"{root}/"): facts["size"] for name, facts in found.items()
        }
        return sizes.get

    def _parcels(self, units: Sequence[Unit]) -> list[Parcel]:
        """Files together as a GPU completes them; a shard has enough scans of its own."""
        size = self.pool.batch_size if isinstance(self.destination, CompletedFiles) else 1
        return [tuple(units[i : i + size]) for i in range(0, len(units), size)]

    def _settle(self, unit: Unit, outcome: Outcome) -> None:
        if self.each:
            self.each(unit, outcome)
        for place, (source, result) in enumerate(zip(unit.scans, outcome.results, strict=True)):
            name = str(source)
            if result.failure is not None:
                self.report.failed[name] = str(result.failure)
                if not _is_one_file(self.destination):
                    self.failures.add(name, result.failure)
            else:
                of_state = self.report.done if result.state == "done" else self.report.skipped
                of_state[name] = self._image_of(unit, place)
                self.worst.add(unit, place, result.misfit)
            if result.state == "done" and result.note:
                self.report.notes[name] = result.note
            self._tell()

    def _tell(self) -> None:
        if self.progress:
            self.progress(self.report.num_settled, self.total)

    def _image_of(self, unit: Unit, place: int) -> str:
        """How the user calls a completion."""
        name = str(self.folder / unit.name)
        return name if unit.shape is None else f"{name}[{unit.rows[place]}]"


def _told(failed: Mapping[str, Failure]) -> dict[str, str]:
    return {name: str(failure) for name, failure in failed.items()}


def _check_one(found: Found, destination: Destination) -> None:
    num = len(found.sources) + len(found.failed)
    if num != 1:
        raise ConfigError(
            expected="a folder for the output of several scans",
            found=f"one file for {num} scans",
            where=destination.folder,
            fix="give a folder",
        )


def _check_arguments(
    pool: Pool,
    dwell: str | Path | None,
    along: str | Path | None,
    *,
    published: bool,
    error_map: bool,
) -> None:
    if dwell is not None and along is not None:
        raise ConfigError(
            expected="dwell maps of images, or the path of samples",
            found="both",
            where="dwell",
            fix="leave one out",
        )
    if published and dwell is None:
        raise ConfigError(
            expected="the masks of published scans",
            found="none",
            where="dwell",
            fix="give them, for example mask-{number}.tif",
        )
    if error_map and pool.card.calibration is None:
        raise ConfigError(
            expected="a model with a calibrated error map",
            found=f"none in {pool.card.name}",
            where="error_map",
            fix="export the model again from a store with a validation split, or leave out the map",
        )
