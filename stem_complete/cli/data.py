"""Commands that fill stores and look into files."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from stem_complete.cli.base import Json, app, check_choice, examples, print_json, say_failed


@app.command(
    epilog=examples(
        "stem-complete ingest images/ --store store.zarr",
        "stem-complete ingest 'day1/*.dm4' day2/map.emd --store store.zarr --signal HAADF",
    )
)
def ingest(
    sources: Annotated[list[str], typer.Argument(help="Files, folders or globs.")],
    store: Annotated[Path, typer.Option(help="Store to append to, or to create.")],
    crop_size: Annotated[
        int | None, typer.Option(min=32, help="Side of the crops [px]; 512 for a new store.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="uint16 (exact up to 65,535 levels) or float32.")
    ] = None,
    compression: Annotated[
        str | None,
        typer.Option(
            help="Of the pixels, without loss: lz4 (fast), zstd (some percent smaller, slower to "
            "write and read) or none; lz4 for a new store."
        ),
    ] = None,
    signal: Annotated[str | None, typer.Option(help="Only the signal of this name.")] = None,
    frame: Annotated[int | None, typer.Option(min=0, help="Only this frame.")] = None,
    as_json: Json = False,
) -> None:
    """Cuts micrographs into crops and keeps them in a zarr store.

    Reads TIFF, PNG, NPY/NPZ, HDF5, zarr and, with the microscopy extra, DM3/DM4, EMD, SER/EMI,
    MRC, BCF and HSPY. Appending later and running again are safe. Exits with 1 if files could not
    be read; the others are ingested.
    """
    from stem_complete.console import ProgressBar, say
    from stem_complete.data.store.ingest import ingest as ingest_files

    check_choice("--dtype", dtype, ("uint16", "float32"))
    check_choice("--compression", compression, ("lz4", "zstd", "none"))
    with ProgressBar("ingesting", 0) as bar:

        def progress(path: Path, done: int, total: int) -> None:
            bar.total = total
            bar.update(done, path.name)

        report = ingest_files(
            sources,
            store,
            crop_size=crop_size,
            dtype=dtype,  # type: ignore[arg-type]
            compression=compression,  # type: ignore[arg-type]
            signal=signal,
            frame=frame,
            progress=progress,
        )
        bar.update(report.num_files)
    say_failed(report.failed)
    for line in report.skipped:
        say(f"no image: {line}")
    for (file, reason), number in Counter((c.path, c.reason) for c in report.left_out).items():
        say(f"left out: {number} crop{'s' * (number > 1)} of {file}: {reason}")
    if as_json:
        print(report.to_json())
    else:
        print(
            f"{report.num_added} crops of {len(report.added)} files added to {store}, "
            f"{len(report.already_there)} files already there, {len(report.left_out)} crops left "
            f"out, {len(report.failed)} files failed"
        )
    if report.failed:
        raise typer.Exit(1)


@app.command(
    epilog=examples(
        "stem-complete inspect store.zarr --contact-sheet sheet.png",
        "stem-complete inspect runs/compact/model",
        "stem-complete inspect image.dm4",
    )
)
def inspect(
    path: Annotated[Path, typer.Argument(help="A store, a model, a run, a scan or an image.")],
    contact_sheet: Annotated[
        Path | None, typer.Option(help="Also draw crops of a store into this PNG.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Tells what a store, model, run, scan or image file contains."""
    from stem_complete.inspection import draw_store, inspect_path, summary

    values = inspect_path(path)
    if contact_sheet is not None:
        draw_store(path, contact_sheet)
    if as_json:
        print_json(values)
    else:
        print(summary(values))
