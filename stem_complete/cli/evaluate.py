"""The command that judges completions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from stem_complete.cli.base import (
    Address,
    GpuWorkers,
    Json,
    NumWorkers,
    OnRay,
    Precision,
    Split,
    app,
    check_on_ray,
    examples,
    show,
)
from stem_complete.errors import ConfigError

if TYPE_CHECKING:
    from stem_complete.config import NoiseConfig
    from stem_complete.evaluation import Report, RowsFormat
    from stem_complete.serving.batch.units import Workers

DEFAULT_NUM_IMAGES, DEFAULT_SEED = 32, 0


@app.command(
    epilog=examples(
        "stem-complete evaluate --model MODEL --data store.zarr --coverage 1/20 --coverage 1/50",
        "stem-complete evaluate --data images/ --coverage 1/20",
        "stem-complete evaluate --model released --data images/ --geometry archimedean "
        "--geometry random --coverage 1/20 --dose none --dose 100 --output evaluation/",
        "stem-complete evaluate --model released --data images/ --atom-columns --output lattices/",
        "stem-complete evaluate --model released --data store.zarr --coverage 1/20 "
        "--output evaluation/ --format parquet --ray --workers 8",
        "stem-complete evaluate --model released --published",
        "stem-complete evaluate --protocol --model released --data images/ --output protocol/",
        "stem-complete evaluate --protocol --model released --data images/ --output protocol/ "
        "--only 'archimedean 1/20 *' --only 'random * dose 100'",
        "stem-complete evaluate --protocol --data day1/ --data 'day2/*.tif' --output baselines/",
        "stem-complete evaluate --equal-dose --model released --data images/ --output dose/",
    )
)
def evaluate(
    model: Annotated[
        str | None,
        typer.Option(
            help="Folder of the model, or released for the one that comes with the package; "
            "without it, baselines alone."
        ),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(help="Store, or files, folders or globs of complete micrographs."),
    ] = None,
    published: Annotated[
        bool, typer.Option("--published", help="The published noisy scans instead of --data.")
    ] = False,
    protocol: Annotated[
        bool,
        typer.Option("--protocol", help="The fixed conditions, for figures to report; see above."),
    ] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Part of the protocol: conditions like 'archimedean 1/20 dose 100'."),
    ] = None,
    equal_dose: Annotated[
        bool,
        typer.Option("--equal-dose", help="Full rasters beside sparse scans of as many electrons."),
    ] = False,
    geometry: Annotated[
        list[str] | None,
        typer.Option(help="Scan path, a name or a file of positions; by default the model's."),
    ] = None,
    coverage: Annotated[
        list[str] | None, typer.Option(help="Mean dwell such as 1/20; by default the model's.")
    ] = None,
    dose: Annotated[
        list[str] | None,
        typer.Option(
            help="Electrons in a full pixel dwell at the highest intensity, counted along the "
            "path; none: no counting noise. By default noise as in training."
        ),
    ] = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            help="Classical methods; by default the fast ones. With --protocol, more of them: bm3d."
        ),
    ] = None,
    noise: Annotated[
        Literal["none", "reference"] | None,
        typer.Option(help="Pixel by pixel, instead of --dose; by default as in training."),
    ] = None,
    atom_columns: Annotated[
        bool,
        typer.Option(
            "--atom-columns",
            help="Also compare atom columns with those of the truth, where it shows a lattice.",
        ),
    ] = False,
    num_images: Annotated[
        int | None,
        typer.Option(
            min=1,
            help=f"At most so many crops; by default {DEFAULT_NUM_IMAGES}, with --protocol, "
            "--equal-dose and --ray all.",
        ),
    ] = None,
    split: Split = "test",
    group: Annotated[
        str | None,
        typer.Option(metavar="PATTERN", help="What names a file's field of view, as for ingest."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help=f"Seed of the noise; by default {DEFAULT_SEED}.")
    ] = None,
    precision: Precision = "float32",
    output: Annotated[
        Path | None,
        typer.Option(
            help="Folder for tables, a file with every score, pictures, and the scans that are "
            "done, which are not done again."
        ),
    ] = None,
    file_format: Annotated[
        Literal["csv", "parquet"],
        typer.Option("--format", help="Of the file with a row for each crop, condition, method."),
    ] = "csv",
    on_ray: OnRay = False,
    address: Address = None,
    workers: NumWorkers = None,
    gpu: GpuWorkers = False,
    timeout: Annotated[
        float,
        typer.Option(
            min=1.0, help="Longest time of a scan on Ray [s]; it is tried twice, then listed."
        ),
    ] = 3600.0,
    as_json: Json = False,
) -> None:
    """Scores completions of simulated scans against the truth, beside classical interpolation.

    It tells RMSE, PSNR and SSIM; the resolution by Fourier ring correlation; the RMSE by distance
    from the nearest measured pixel; and, of lattices, how many atom columns are found and how
    precisely. All combinations of geometries, coverages and doses are scanned. Each scan is kept in
    the output folder once it is done: run the command again after it was stopped, or with more
    conditions, and it goes on. Workers on Ray change no digit. Exits with 1 if scans could not be
    evaluated.

    The protocol is always the same: ten geometries, true coverages 1/2, 1/5, 1/10, 1/20, 1/50 and
    1/87, electrons counted along the path without noise and at doses of 1000, 100 and 20 electrons
    per full pixel dwell, spirals with the published detection noise too, at most four crops of
    512 px of each field of view, one seed. In each of its 212 cells it tells the geometric mean,
    over the crops, of the ratio to the best tuned baseline, with a bootstrap interval, the share of
    crops that are better, the worst one, and whether the error map is right. A cell takes about a
    second for each crop on one free core: an hour and a half for all cells of 28 crops.

    Equal dose: for 1 to 100 electrons per pixel of the image, full rasters, denoised, beside sparse
    scans that are completed.
    """
    from stem_complete import evaluation
    from stem_complete.config import NoNoiseConfig, ReferenceNoiseConfig
    from stem_complete.console import ProgressBar, counted, say
    from stem_complete.extras import require
    from stem_complete.inference import load_completer

    fixed = "--protocol" if protocol else "--equal-dose"
    if (not data) == (not published) or (published and (protocol or equal_dose)):
        raise ConfigError(
            expected="either --data or --published",
            found="both" if data else fixed if published else "neither",
            where="evaluate",
            fix=f"give one of them; {fixed} needs --data",
        )
    for either, both in (
        ("--protocol or --equal-dose", protocol and equal_dose),
        ("--dose or --noise", dose and noise),
    ):
        if both:
            raise ConfigError(
                expected=either, found="both", where="evaluate", fix="leave one of them out"
            )
    scanning = {
        "--geometry": geometry,
        "--coverage": coverage,
        "--dose": dose,
        "--noise": noise,
        "--seed": seed,
    }
    barred: dict[str, object] = {}
    if published:
        barred = {
            **scanning,
            "--group": group,
            "--ray": on_ray or None,
            "--address": address,
            "--workers": workers,
        }
    elif protocol:
        barred = {**scanning, "--atom-columns": atom_columns or None}
    elif equal_dose:
        barred = {**scanning, "--atom-columns": atom_columns or None, "--baseline": baseline}
    if extra := [name for name, value in barred.items() if value is not None]:
        kind = "--published" if published else fixed
        raise ConfigError(
            expected=f"{kind} without these, as its scans are fixed",
            found=" and ".join(extra),
            where="evaluate",
            fix="leave them out",
        )
    if only and not protocol:
        raise ConfigError(
            expected="--only with --protocol",
            found="--only alone",
            where="evaluate",
            fix="add --protocol",
        )
    if output is not None and output.exists() and not output.is_dir():
        raise ConfigError(
            expected="a folder", found="a file", where=output, fix="give another --output"
        )
    if atom_columns:
        require("trackpy", purpose="--atom-columns")
    if file_format == "parquet":
        require("pyarrow", purpose="--format parquet")
    there = None
    if check_on_ray("evaluate", on_ray=on_ray, address=address, workers=workers):
        from stem_complete.serving.batch.destinations import check_is_kept

        if output is not None:
            check_is_kept(str(output))
        there = _workers(model, precision, address=address, workers=workers, gpu=gpu)
    completer = load_completer(model, precision=precision) if model is not None else None
    methods = evaluation.baseline_methods(baseline or evaluation.DEFAULT_BASELINES)
    if completer is not None:
        methods = {evaluation.MODEL: evaluation.Model(completer)} | methods
    measures = evaluation.Measures(details=True, atom_columns=atom_columns)
    with ProgressBar("evaluating") as bar:
        if data is None:
            report = evaluation.evaluate_published(methods, measures=measures)
        elif equal_dose:
            report = evaluation.compare_at_equal_dose(
                data,
                completer,
                split=split,
                max_images=num_images,
                group_pattern=group,
                output=output,
                workers=there,
                timeout_s=timeout,
                progress=bar.show,
            )
        elif protocol:
            cells = evaluation.chosen(only or ())
            say(f"{counted(len(cells), 'condition')} of {len(evaluation.PROTOCOL)}")
            report = evaluation.evaluate_protocol(
                data,
                completer,
                conditions=cells,
                more_baselines=baseline or (),
                split=split,
                max_images=num_images,
                group_pattern=group,
                output=output,
                workers=there,
                timeout_s=timeout,
                progress=bar.show,
            )
        else:
            named: dict[str | None, list[NoiseConfig]] = {
                None: _doses(dose or []),
                "none": [NoNoiseConfig()],
                "reference": [ReferenceNoiseConfig()],
            }
            conditions = evaluation.conditions_of(
                completer.card if completer else None, coverage or (), named[noise], geometry or ()
            )
            images = evaluation.load_micrographs(
                data,
                split=split,
                max_images=num_images or (DEFAULT_NUM_IMAGES if there is None else None),
                group_pattern=group,
            )
            report = evaluation.evaluate(
                images,
                methods,
                conditions,
                seed=seed or DEFAULT_SEED,
                measures=measures,
                folder=output,
                workers=there,
                timeout_s=timeout,
                progress=bar.show,
            )
    for line in report.left_out:
        say(f"left out: {line}")
    for line in report.failed:
        say(f"failed: {line}")
    if equal_dose:
        shown = evaluation.equal_dose_tables(report)
    elif protocol:
        shown = evaluation.by_condition(report)
    else:
        shown = evaluation.all_tables(report)
        if output is not None:
            _write(report, output, file_format)
    show(report.to_json() if as_json else shown)
    if report.failed:
        raise typer.Exit(1)


def _doses(texts: list[str]) -> list[NoiseConfig]:
    """Detectors of these doses."""
    from stem_complete.config import DetectorNoiseConfig

    detectors: list[NoiseConfig] = []
    for text in texts:
        try:
            dose = None if text == "none" else float(text)
        except ValueError:
            dose = 0.0
        if dose is not None and not 0 < dose < float("inf"):
            raise ConfigError(
                expected="electrons in a full pixel dwell, more than 0, or none",
                found=repr(text),
                where="--dose",
                fix="give a number such as 100",
            )
        detectors.append(DetectorNoiseConfig(dose_electrons_per_px=dose))
    return detectors


def _workers(
    model: str | None,
    precision: str,
    *,
    address: str | None,
    workers: int | None,
    gpu: bool,
) -> Workers:
    """Workers on Ray, with the model if there is one."""
    from stem_complete.inference import model_folder
    from stem_complete.serving.batch.on_ray import RayWorkers

    return RayWorkers(
        None if model is None else model_folder(model),
        device="cuda" if gpu else "cpu",
        precision=precision,
        num_workers=workers,
        use_gpu=gpu,
        address=address,
    )


def _write(report: Report, folder: Path, file_format: RowsFormat) -> None:
    """Tables, every row, and the picture; the same bytes whoever did the scans."""
    from stem_complete import evaluation
    from stem_complete.files import write_atomically

    write_atomically(folder / "evaluation.md", evaluation.evaluation_page(report) + "\n")
    evaluation.write_rows(report, folder, file_format)
    evaluation.save_png(evaluation.details_figure(report), folder / "details.png")
