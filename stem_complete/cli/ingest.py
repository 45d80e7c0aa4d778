"""The command that fills stores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from stem_complete.cli.base import Json, app, end_batch, examples

if TYPE_CHECKING:
    from stem_complete.data.store.ingest import IngestReport


@app.command(
    epilog=examples(
        "stem-complete ingest images/ --store store.zarr",
        "stem-complete ingest 'day1/*.dm4' day2/map.emd --store store.zarr --signal HAADF",
        "stem-complete ingest areas/ --store store.zarr --group '(area[0-9]+)'",
    )
)
def ingest(
    sources: Annotated[list[str], typer.Argument(help="Files, folders or globs.")],
    store: Annotated[Path, typer.Option(help="Store to append to, or to create.")],
    crop_size: Annotated[
        int | None, typer.Option(min=32, help="Side of the crops [px]; 512 for a new store.")
    ] = None,
    dtype: Annotated[
        Literal["uint16", "float32"] | None,
        typer.Option(
            help="Of stored pixels; uint16 is exact up to 65,535 levels, and the default."
        ),
    ] = None,
    compression: Annotated[
        Literal["lz4", "zstd", "none"] | None,
        typer.Option(
            help="Lossless compression of pixels: lz4 is fast, zstd some percent smaller and "
            "slower to write and read; lz4 for a new store."
        ),
    ] = None,
    signal: Annotated[str | None, typer.Option(help="Only the signal of this name.")] = None,
    frame: Annotated[int | None, typer.Option(min=0, help="Only this frame.")] = None,
    group: Annotated[
        str | None,
        typer.Option(
            metavar="PATTERN",
            help="Regular expression whose groups name the field of view in a file's path without "
            "suffix. Files of one field share their split. By default a number, a value with its "
            "unit or a date and time at the end of names does not count: gold_0001, gold_0.5s.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Cuts micrographs into crops and keeps them in a zarr store.

    Reads TIFF, PNG, NPY/NPZ, HDF5, EMD, HSPY, zarr and, with the microscopy extra, DM3/DM4,
    Velox EMD, SER/EMI, MRC and BCF. Appending later and running again are safe. Exits with 1 if
    files or folders could not be read; the others are ingested.
    """
    from stem_complete.console import ProgressBar
    from stem_complete.data.store.ingest import ingest as ingest_files

    with ProgressBar("ingesting") as bar:
        report = ingest_files(
            sources,
            store,
            crop_size=crop_size,
            dtype=dtype,
            compression=compression,
            signal=signal,
            frame=frame,
            group_pattern=group,
            progress=lambda path, done, total: bar.show(done, total, path.name),
        )
        bar.show(report.num_files, report.num_files)
    end_batch(
        report.failed,
        [
            *(f"no image: {line}" for line in report.skipped),
            *_left_out(report),
            *(f"note: {note}" for note in report.notes),
        ],
        report.to_json() if as_json else _summary(report, store),
    )


def _left_out(report: IngestReport) -> Iterator[str]:
    """Counts crops that were left out, by file and reason."""
    from stem_complete.console import counted

    # "saturated, 31% of ..." and "saturated, 25% of ..." are one reason.
    kinds: dict[tuple[str, str], Counter[str]] = {}
    for crop in report.left_out:
        kind = crop.reason.split(",")[0]
        kinds.setdefault((crop.path, kind), Counter())[crop.reason] += 1
    for (file, _), reasons in kinds.items():
        first, *others = reasons
        like = f"; or {others[0]}" if len(others) == 1 else ""
        if len(others) > 1:
            like = f", or for one of {len(others)} reasons like it"
        yield f"left out: {counted(reasons.total(), 'crop')} of {file}: {first}{like}"


def _summary(report: IngestReport, store: Path) -> str:
    from stem_complete.console import counted

    added, left_out = (counted(n, "crop") for n in (report.num_added, len(report.left_out)))
    of, there, failed = (
        counted(len(files), "file") for files in (report.added, report.already_there, report.failed)
    )
    return (
        f"{added} of {of} added to {store}, {there} already there, {left_out} left out, "
        f"{failed} failed"
    )
