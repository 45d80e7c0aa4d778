"""The command that completes partial scans."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from stem_complete.cli.base import Json, Precision, app, end_batch, examples
from stem_complete.vocabulary import DwellUnit

_Number = TypeVar("_Number", int, float)


@app.command(
    epilog=examples(
        "stem-complete complete scan.tif --dwell dwell.tif --output completed.tif",
        "stem-complete complete scans/ --dwell dwells/ --output completed/ --png",
        "stem-complete complete scan-with-nans.npy --output completed/ --error-map",
        "stem-complete complete scan.tif --dwell dwell.tif --output completed/ --no-self-check",
        "stem-complete complete samples.csv --signal HAADF --shape 512,512 --output completed/",
        "stem-complete complete intensities.npy --path path.csv --output completed/",
        "stem-complete complete a.tif --dwell us.tif --dwell-unit us --full-dwell 10 --output out/",
        "stem-complete complete scans/ --model MODEL --output completed/ --precision bf16",
    )
)
def complete(
    scans: Annotated[list[str], typer.Argument(help="Files, folders or globs of partial scans.")],
    output: Annotated[Path, typer.Option(help="Folder, or a .tif for one scan.")],
    model: Annotated[
        str | None,
        typer.Option(
            help="Folder of the model or of its run, or `models:/NAME@alias` of MLflow; by default "
            "the released model, which comes with the package."
        ),
    ] = None,
    dwell: Annotated[
        str | None,
        typer.Option(
            help="Dwell maps: a file, a folder of the same names, or mask-{number}.tif. "
            "Without: NaN is not measured, or one value that fills the gaps of a path."
        ),
    ] = None,
    path: Annotated[
        str | None,
        typer.Option(
            help="Paths of scans that are lists of intensities: a file, such as "
            "`stem-complete scan` writes, a folder, or path-{number}.csv."
        ),
    ] = None,
    signal: Annotated[str | None, typer.Option(help="Detector, of files with several.")] = None,
    unmeasured: Annotated[
        float | None,
        typer.Option(
            help="Value of pixels that were not measured; nan if all others were. By default one "
            "that fills the gaps of a path is recognised."
        ),
    ] = None,
    dwell_unit: Annotated[
        DwellUnit | None,
        typer.Option(
            help="Unit of dwell times; by default of whole numbers counts, else full pixel dwells."
        ),
    ] = None,
    full_dwell: Annotated[
        float | None,
        typer.Option(help="Dwell of a pixel in a full scan, in that unit; of counts the largest."),
    ] = None,
    shape: Annotated[
        str | None,
        typer.Option(help="Height,width of the image of samples [px]; by default what they reach."),
    ] = None,
    position_unit: Annotated[
        str | None, typer.Option(help="Unit of positions, such as px (the default), nm or V.")
    ] = None,
    step: Annotated[
        float | None,
        typer.Option(help="Distance of neighbouring pixels in that unit, where it is not px."),
    ] = None,
    origin: Annotated[
        str | None, typer.Option(help="x,y of the first pixel's centre in that unit.")
    ] = None,
    published: Annotated[
        bool, typer.Option("--published", help="Scans are encoded as in partial-STEM's examples.")
    ] = False,
    png: Annotated[bool, typer.Option("--png", help="Also write a preview.")] = False,
    error_map: Annotated[
        bool, typer.Option("--error-map", help="Also write the expected error of each pixel.")
    ] = False,
    self_check: Annotated[
        bool,
        typer.Option(
            "--self-check/--no-self-check",
            help="Predict held-out parts of each scan, tell how far off the prediction is, and "
            "leave out what they contradict; takes as long again.",
        ),
    ] = True,
    keep_measured: Annotated[
        bool,
        typer.Option(
            "--keep-measured", help="Blend measured pixels back, weighted by their precision."
        ),
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

    A scan is an image, or a list of samples: CSV, Parquet, NPZ or HDF5 with x, y and intensity, or
    FreeScan's coordinates. What is completed already is passed over, unless the scan, its dwell map
    or path, the model or the options changed since. Exits with 1 if scans could not be read; the
    others are completed.
    """
    from stem_complete.console import ProgressBar, counted
    from stem_complete.data.scan_options import ScanOptions
    from stem_complete.inference import Outputs, complete_files, load_completer

    options = ScanOptions(
        signal=signal,
        unmeasured=unmeasured,
        dwell_unit=dwell_unit,
        full_dwell=full_dwell,
        shape=_pair(shape, int, "--shape"),
        position_unit=position_unit,
        step=step,
        origin=_pair(origin, float, "--origin"),
    )
    completer = load_completer(model, device, precision=precision)
    with ProgressBar("completing") as bar:
        report = complete_files(
            scans,
            completer,
            output,
            dwell=dwell,
            along=path,
            options=options,
            published=published,
            outputs=Outputs(
                png=png,
                error_map=error_map,
                overwrite=overwrite,
                self_check=self_check,
                keep_measured=keep_measured,
            ),
            progress=bar.show,
        )
    summary = (
        f"{counted(len(report.done), 'scan')} completed in {output}, "
        f"{len(report.skipped)} already there, "
        f"{len(report.failed)} failed"
    )
    notes = [f"note: {file}: {note}" for file, note in report.notes.items()]
    end_batch(report.failed, notes, json.dumps(asdict(report), indent=2) if as_json else summary)


def _pair(text: str | None, kind: type[_Number], option: str) -> tuple[_Number, _Number] | None:
    """The numbers of `512,384`; one stands for both."""
    if text is None:
        return None
    try:
        numbers = [kind(part) for part in text.replace("x", ",").split(",")]
        first, second = numbers * 2 if len(numbers) == 1 else numbers
    except ValueError:
        raise typer.BadParameter(
            f"expected numbers such as 512,512, found {text}", param_hint=option
        ) from None
    return first, second
