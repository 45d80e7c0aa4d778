"""The command that completes partial scans."""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import islice
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from stem_complete.cli.base import (
    Address,
    GpuWorkers,
    NumWorkers,
    OnRay,
    Precision,
    app,
    check_on_ray,
    end_batch,
    examples,
)
from stem_complete.vocabulary import CompletionFormat, DwellUnit

if TYPE_CHECKING:
    from stem_complete.serving.batch.units import Pool

_Number = TypeVar("_Number", int, float)

_MOST_TOLD = 100  # of notes and failures


@app.command(
    epilog=examples(
        "stem-complete complete scan.tif --dwell dwell.tif --output completed.tif",
        "stem-complete complete scans/ --dwell dwells/ --output completed/ --png",
        "stem-complete complete scan-with-nans.npy --output completed/ --error-map",
        "stem-complete complete scan.tif --dwell dwell.tif --output completed/ --no-self-check",
        "stem-complete complete samples.csv --signal HAADF --shape 512,512 --output completed/",
        "stem-complete complete intensities.npy --path path.csv --output completed/",
        "stem-complete complete a.tif --dwell us.tif --dwell-unit us --full-dwell 10 --output out/",
        "stem-complete complete scans/ --model models:/gold@production --output completed/",
        "stem-complete complete scans.zarr --output completed.zarr --error-map --ray --workers 8",
        "stem-complete complete list.txt --output s3://bucket/completed --format npy",
        "stem-complete complete scans/ --output completed/ --format ome-zarr --error-map",
        "ray job submit --working-dir . -- python -m stem_complete complete /data/scans.zarr "
        "--output /data/completed.zarr --ray --workers 8 --gpu",
    )
)
def complete(
    scans: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Partial scans: files, folders, globs, lists of them (.txt, .parquet), zarr "
            "arrays; also as s3:// and other URLs.",
        ),
    ],
    output: Annotated[
        str,
        typer.Option(
            help="Folder or URL; a .zarr for arrays; or a .tif, .npy, .hspy or .ome.zarr for one "
            "scan."
        ),
    ],
    file_format: Annotated[
        CompletionFormat | None,
        typer.Option("--format", help="Of the output; by default as its name says, else tiff."),
    ] = None,
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
            "leave out what they contradict; takes longer than completing.",
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
    on_ray: OnRay = False,
    address: Address = None,
    workers: NumWorkers = None,
    shard: Annotated[
        int, typer.Option(min=1, help="Most scans in a shard of arrays, which is done as a whole.")
    ] = 256,
    gpu: GpuWorkers = False,
    timeout: Annotated[
        float,
        typer.Option(
            min=1.0, help="Longest time of a file or shard [s]; it is tried twice, then listed."
        ),
    ] = 3600.0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a line of JSON for each scan, and at the end.")
    ] = False,
) -> None:
    """Completes partial scans: float32 in the units and with the pixel size of the scan.

    A scan is an image, or a list of samples: CSV, Parquet, NPZ or HDF5 with x, y and intensity, or
    FreeScan's coordinates. What is completed already is passed over, unless the scan, its dwell map
    or path, the model or the options changed since: started again after whatever interrupted it, it
    goes on. Exits with 1 if scans could not be completed; they are listed in `errors.jsonl` in the
    output, and the others are done.
    """
    from stem_complete.cli.batch_display import BatchDisplay
    from stem_complete.console import counted
    from stem_complete.data.scan_options import ScanOptions
    from stem_complete.inference import Outputs
    from stem_complete.serving.batch import complete_files

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
    pool = _pool(
        model,
        "cuda" if gpu else device,
        precision,
        on_ray=check_on_ray("complete", on_ray=on_ray, address=address, workers=workers),
        address=address,
        workers=workers,
        gpu=gpu,
    )
    with BatchDisplay(as_json=as_json) as display:
        report = complete_files(
            scans,
            pool,
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
            file_format=file_format,
            scans_in_shard=shard,
            timeout_s=timeout,
            progress=display.show,
            each=display.note,
        )
    summary = (
        f"{counted(len(report.done), 'scan')} completed in {output}, "
        f"{len(report.skipped)} already there, "
        f"{len(report.failed)} failed"
    )
    notes = [f"note: {file}: {note}" for file, note in report.notes.items()]
    if (more := len(notes) - _MOST_TOLD) > 0:
        notes[_MOST_TOLD:] = [f"{counted(more, 'more note')} in the manifest of {output}"]
    if (more := len(report.failed) - _MOST_TOLD) > 0:
        notes.append(f"{counted(more, 'more scan')} failed, see {output}/errors.jsonl")
    told = dict(islice(report.failed.items(), _MOST_TOLD))
    end_batch(told, notes, json.dumps(asdict(report)) if as_json else summary)


def _pool(
    model: str | None,
    device: str | None,
    precision: str,
    *,
    on_ray: bool,
    address: str | None,
    workers: int | None,
    gpu: bool,
) -> Pool:
    """Workers with the model: this process, or actors on Ray."""
    from stem_complete.inference import load_completer, model_folder
    from stem_complete.serving.batch.in_process import InProcess

    if not on_ray:
        return InProcess(load_completer(model, device, precision=precision))
    from stem_complete.serving.batch.on_ray import RayPool

    return RayPool(
        model_folder(model),
        device=device or "cpu",
        precision=precision,
        num_workers=workers,
        use_gpu=gpu,
        address=address,
    )


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
