"""The command that fills stores."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Literal

import typer

from stem_complete.cli.base import Json, app, end_batch, examples


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
    as_json: Json = False,
) -> None:
    """Cuts micrographs into crops and keeps them in a zarr store.

    Reads TIFF, PNG, NPY/NPZ, HDF5, zarr and, with the microscopy extra, DM3/DM4, EMD, SER/EMI,
    MRC, BCF and HSPY. Appending later and running again are safe. Exits with 1 if files could not
    be read; the others are ingested.
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
            progress=lambda path, done, total: bar.show(done, total, path.name),
        )
        bar.show(report.num_files, report.num_files)
    left_out = Counter((crop.path, crop.reason) for crop in report.left_out)
    end_batch(
        report.failed,
        [
            *(f"no image: {line}" for line in report.skipped),
            *(
                f"left out: {number} crop{'s' * (number > 1)} of {file}: {reason}"
                for (file, reason), number in left_out.items()
            ),
        ],
        report.to_json()
        if as_json
        else f"{report.num_added} crops of {len(report.added)} files added to {store}, "
        f"{len(report.already_there)} files already there, {len(report.left_out)} crops left "
        f"out, {len(report.failed)} files failed",
    )
