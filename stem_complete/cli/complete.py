"""The command that completes partial scans."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from stem_complete.cli.base import Json, Precision, app, end_batch, examples


@app.command(
    epilog=examples(
        "stem-complete complete scan.tif --dwell dwell.tif --output completed.tif",
        "stem-complete complete scans/ --dwell dwells/ --output completed/ --png",
        "stem-complete complete scan-with-nans.npy --output completed/ --error-map",
        "stem-complete complete scans/ --model MODEL --output completed/ --precision bf16",
    )
)
def complete(
    scans: Annotated[list[str], typer.Argument(help="Files, folders or globs of partial scans.")],
    output: Annotated[Path, typer.Option(help="Folder, or a .tif for one scan.")],
    model: Annotated[
        str | None,
        typer.Option(
            help="Folder of the model, or of the run that made it; by default the released model, "
            "which comes with the package."
        ),
    ] = None,
    dwell: Annotated[
        str | None,
        typer.Option(
            help="Dwell maps: a file, a folder of the same names, or mask-{number}.tif. "
            "Without: NaN, or else 0, is not measured."
        ),
    ] = None,
    published: Annotated[
        bool, typer.Option("--published", help="Scans are encoded as in partial-STEM's examples.")
    ] = False,
    png: Annotated[bool, typer.Option("--png", help="Also write a preview.")] = False,
    error_map: Annotated[
        bool, typer.Option("--error-map", help="Also write the expected error of each pixel.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Complete again what is there already.")
    ] = False,
    device: Annotated[
        str | None, typer.Option(help="cpu or cuda; by default what is there.")
    ] = None,
    precision: Precision = "float32",
    as_json: Json = False,
) -> None:
    """Completes partial scans: float32 TIFF in the units and with the pixel size of the scan.

    What is completed already is passed over, so an interrupted batch goes on. Exits with 1 if
    scans could not be read; the others are completed.
    """
    from stem_complete.console import ProgressBar, counted
    from stem_complete.inference import Outputs, complete_files, load_completer

    completer = load_completer(model, device, precision=precision)
    with ProgressBar("completing") as bar:
        report = complete_files(
            scans,
            completer,
            output,
            dwell=dwell,
            published=published,
            outputs=Outputs(png=png, error_map=error_map, overwrite=overwrite),
            progress=bar.show,
        )
    summary = (
        f"{counted(len(report.done), 'scan')} completed in {output}, "
        f"{len(report.skipped)} already there, "
        f"{len(report.failed)} failed"
    )
    notes = [f"note: {file}: {note}" for file, note in report.notes.items()]
    end_batch(report.failed, notes, json.dumps(asdict(report), indent=2) if as_json else summary)
