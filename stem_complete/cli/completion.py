"""Commands that complete partial scans, and tell how well."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stem_complete.cli.base import Json, Precision, app, check_choice, examples, say_failed
from stem_complete.errors import ConfigError

MODEL_HELP = (
    "Folder of the model, or released for the one that comes with the package; without it, "
    "baselines alone."
)
SPLITS = ("train", "validation", "test")


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
    from stem_complete.console import ProgressBar, say
    from stem_complete.inference import complete_files, load_completer

    completer = load_completer(model, device, precision=precision)
    with ProgressBar("completing", 0) as bar:
        report = complete_files(
            scans,
            completer,
            output,
            dwell=dwell,
            published=published,
            png=png,
            error_map=error_map,
            overwrite=overwrite,
            progress=bar.show,
        )
    say_failed(report.failed)
    for file, note in report.notes.items():
        say(f"note: {file}: {note}")
    if as_json:
        print(report.to_json())
    else:
        print(
            f"{len(report.done)} scans completed in {output}, {len(report.skipped)} already there, "
            f"{len(report.failed)} failed"
        )
    if report.failed:
        raise typer.Exit(1)


@app.command(
    epilog=examples(
        "stem-complete evaluate --model MODEL --data store.zarr --coverage 1/20 --coverage 1/50",
        "stem-complete evaluate --data images/ --coverage 1/20",
        "stem-complete evaluate --model released --published",
    )
)
def evaluate(
    model: Annotated[str | None, typer.Option(help=MODEL_HELP)] = None,
    data: Annotated[
        Path | None, typer.Option(help="Store, or folder or file of complete micrographs.")
    ] = None,
    published: Annotated[
        bool, typer.Option("--published", help="The published noisy scans instead of --data.")
    ] = False,
    coverage: Annotated[
        list[str] | None, typer.Option(help="Mean dwell such as 1/20; by default the model's.")
    ] = None,
    baseline: Annotated[
        list[str] | None, typer.Option(help="Classical methods; by default all but biharmonic.")
    ] = None,
    noise: Annotated[
        str | None, typer.Option(help="none or reference; by default as in training.")
    ] = None,
    num_images: Annotated[int, typer.Option(min=1, help="At most so many crops.")] = 32,
    split: Annotated[str, typer.Option(help="Of a store: train, validation or test.")] = "test",
    seed: Annotated[int, typer.Option(min=0, help="Of the noise.")] = 0,
    precision: Precision = "float32",
    output: Annotated[Path | None, typer.Option(help="Also write the JSON to this file.")] = None,
    as_json: Json = False,
) -> None:
    """Scores completions of simulated scans against the truth, beside classical interpolation."""
    from stem_complete.config import NoNoiseConfig, ReferenceNoiseConfig
    from stem_complete.console import ProgressBar, say
    from stem_complete.inference import evaluate as evaluate_data
    from stem_complete.inference import evaluate_published, load_completer
    from stem_complete.inference.evaluate import DEFAULT_BASELINES

    if (data is None) == (not published):
        raise ConfigError(
            expected="either --data or --published",
            found="both" if published else "neither",
            where="evaluate",
            fix="give one of them",
        )
    noises: dict[str, NoNoiseConfig | ReferenceNoiseConfig] = {
        "none": NoNoiseConfig(),
        "reference": ReferenceNoiseConfig(),
    }
    check_choice("--noise", noise, noises)
    check_choice("--split", split, SPLITS)
    completer = load_completer(model, precision=precision) if model is not None else None
    baselines = tuple(baseline or DEFAULT_BASELINES)
    with ProgressBar("evaluating", 0) as bar:
        if data is None:
            report = evaluate_published(completer, baselines)
        else:
            report = evaluate_data(
                data,
                completer=completer,
                coverages=coverage or (),
                noise=None if noise is None else noises[noise],
                baselines=baselines,
                num_images=num_images,
                split=split,  # type: ignore[arg-type]
                seed=seed,
                progress=bar.show,
            )
    for line in report.left_out:
        say(f"left out: {line}")
    if output is not None:
        output.write_text(report.to_json())
    print(report.to_json() if as_json else report.markdown())


@app.command(
    epilog=examples(
        "stem-complete protocol --model released --data images/ --output protocol/",
        "stem-complete protocol --data store.zarr --output baselines/",
        "stem-complete protocol --model MODEL --data day1/ --data 'day2/*.tif' --output protocol/",
    )
)
def protocol(
    data: Annotated[
        list[str], typer.Option(help="Store, or files, folders or globs of complete micrographs.")
    ],
    output: Annotated[
        Path, typer.Option(help="Folder for protocol.json, protocol.md and worst.png.")
    ],
    model: Annotated[str | None, typer.Option(help=MODEL_HELP)] = None,
    split: Annotated[str, typer.Option(help="Of a store: train, validation or test.")] = "test",
    precision: Precision = "float32",
    as_json: Json = False,
) -> None:
    """Compares a model with tuned classical baselines, always in the same way.

    Spirals of a probe at constant speed and spirals as the published code draws them, true
    coverages 1/10, 1/17.9, 1/20, 1/50 and 1/87, without and with the published detection noise, at
    most four crops of 512 px of each field of view, one seed. Tells hashes of data and weights, the
    ratio to the best baseline with a bootstrap interval, and draws the worst ten images. A crop
    takes some twenty seconds on one core, beside what the model takes for twenty scans.
    """
    from stem_complete.console import ProgressBar, say
    from stem_complete.inference import load_completer, run_protocol
    from stem_complete.inference.protocol import NUM_WORST, draw_worst

    check_choice("--split", split, SPLITS)
    if output.exists() and not output.is_dir():
        raise ConfigError(
            expected="a folder", found="a file", where=output, fix="give another --output"
        )
    completer = load_completer(model, precision=precision) if model is not None else None
    with ProgressBar("evaluating", 0) as bar:
        report = run_protocol(
            data,
            completer=completer,
            split=split,  # type: ignore[arg-type]
            progress=bar.show,
        )
    for line in report.left_out:
        say(f"left out: {line}")
    output.mkdir(parents=True, exist_ok=True)
    (output / "protocol.json").write_text(report.to_json() + "\n")
    (output / "protocol.md").write_text(report.markdown(NUM_WORST) + "\n")
    draw_worst(
        report.worst(NUM_WORST),
        output / "worst.png",
        data,
        completer=completer,
        split=split,  # type: ignore[arg-type]
    )
    print(report.to_json() if as_json else report.markdown(NUM_WORST))
