"""Command line. Each command parses its arguments, calls one function and prints its result."""

from __future__ import annotations

import json
import logging
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

import stem_complete
from stem_complete.errors import ConfigError, StemCompleteError

app = typer.Typer(
    name="stem-complete",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Completes scanning transmission electron micrographs from partial scans, and trains the "
    "networks that do it.",
    epilog="Start with `stem-complete demo`: the whole chain on real micrographs.",
)

INTERRUPTED, TERMINATED = 130, 143
"""Exit codes after Ctrl-C and SIGTERM, as of any Unix command."""

Precision = Annotated[
    str, typer.Option(help="float32, or bf16: twice as fast where the device has it.")
]
MODEL_HELP = (
    "Folder of the model, or released for the one that comes with the package; without it, "
    "baselines alone."
)
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def examples(*lines: str) -> str:
    """Epilog of a command's help: one example an item."""
    return "\n".join(("**Examples**\n", *(f"* `{line}`" for line in lines)))


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        print(stem_complete.__version__)
        raise typer.Exit


@app.command(
    epilog=examples("stem-complete demo", "stem-complete demo --output /tmp/demo --seed 1")
)
def demo(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[section.field=value ...]", help="Changes to the demo's config."),
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder for everything that is made.")] = Path(
        "stem-complete-demo"
    ),
    seed: Annotated[int, typer.Option(min=0, help="Seed of the training.")] = 0,
) -> None:
    """Runs the whole chain on real micrographs that come with the program.

    Ingests them, trains the compact network on a local two-worker Ray cluster with ALRC, tracks
    the run in MLflow, completes the published noisy partial scans and compares them with classical
    interpolation. Takes some minutes on two cores. Interrupted, it goes on when started again.
    """
    from stem_complete.demo import run_demo

    run_demo(output, seed=seed, overrides=overrides or [])


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
    from stem_complete.data.ingest import ingest as ingest_files

    for option, value, choices in (
        ("--dtype", dtype, ("uint16", "float32")),
        ("--compression", compression, ("lz4", "zstd", "none")),
    ):
        if value not in (None, *choices):
            raise ConfigError(
                expected=" or ".join(choices), found=str(value), where=option, fix="choose one"
            )
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
    for file, reason in report.failed.items():
        say(f"failed: {reason if file in reason else f'{file}: {reason}'}")
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
        "stem-complete train configs/compact.yaml data.store=store.zarr",
        "stem-complete train configs/paper.yaml scaling.num_workers=8",
        "torchrun --nproc-per-node 2 -m stem_complete train configs/compact.yaml",
        "ray job submit --working-dir . -- python -m stem_complete train configs/paper.yaml "
        "storage=/shared/runs data.store=/shared/store.zarr",
    )
)
def train(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="CONFIG... [section.field=value ...]", help="YAML files, then changes to them."
        ),
    ],
    local: Annotated[
        bool,
        typer.Option(
            "--local", help="In this process, without Ray. (torchrun's processes need no flag.)"
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Trains a network, or a sweep of them, and exports it for `complete`.

    Runs on the Ray cluster that the job was submitted to, or on a local one. Started again with
    the same name and storage, it goes on from its last checkpoint.
    """
    from stem_complete.config import load_config
    from stem_complete.launch import launch

    files = [Path(argument) for argument in arguments if "=" not in argument]
    changes = [argument for argument in arguments if "=" in argument]
    if not files:
        raise ConfigError(
            expected="a config file",
            found="only changes",
            where="train",
            fix="name one, for example configs/compact.yaml",
        )
    outcomes = launch(load_config(files, changes), local=local)
    if as_json:
        _print_json(
            [
                {
                    "name": outcome.config.name,
                    "run_folder": str(outcome.config.run_folder),
                    "model": str(outcome.model),
                    "step": outcome.result.step,
                    "metrics": outcome.result.metrics,
                    "tracking_uri": outcome.tracking_uri,
                }
                for outcome in outcomes
            ]
        )


@app.command(
    epilog=examples(
        "stem-complete compare --uri sqlite:////data/runs/mlflow.db --output comparison",
        "stem-complete compare --uri http://mlflow:5000 --name 'alrc*' --name mse --output out",
    )
)
def compare(
    output: Annotated[Path, typer.Option(help="Folder for the figure and the tables.")],
    experiment: Annotated[str, typer.Option(help="MLflow experiment.")] = "stem-complete",
    uri: Annotated[
        str | None,
        typer.Option(
            help="Tracking server; by default the SQLite file in ./runs.",
            envvar="MLFLOW_TRACKING_URI",
        ),
    ] = None,
    name: Annotated[
        list[str] | None, typer.Option(help="Only runs or arms that match, like 'alrc*'.")
    ] = None,
    parent: Annotated[str | None, typer.Option(help="Only runs of this parent run.")] = None,
    metric: Annotated[str, typer.Option(help="Loss to compare.")] = "train/outer_loss",
    boxcar: Annotated[
        int | None, typer.Option(min=1, help="Window of the learning curves [steps].")
    ] = None,
    as_json: Json = False,
) -> None:
    """Draws learning curves of tracked runs and tells their final losses, from MLflow alone."""
    from stem_complete.experiments.comparison import compare as compare_runs
    from stem_complete.tracking import default_uri

    comparison = compare_runs(
        uri or default_uri(Path("runs")),
        experiment,
        output,
        metric=metric,
        boxcar_steps=boxcar,
        names=name,
        parent=parent,
    )
    if as_json:
        _print_json(comparison.to_dict())
    else:
        print(comparison.markdown)


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
    for file, reason in report.failed.items():
        say(f"failed: {reason if file in reason else f'{file}: {reason}'}")
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
    from stem_complete.config import NoNoise, ReferenceNoise
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
    noises = {None: None, "none": NoNoise(), "reference": ReferenceNoise()}
    for option, value, known in (
        ("--noise", noise, noises),
        ("--split", split, ("train", "validation", "test")),
    ):
        if value not in known:
            raise ConfigError(
                expected=" or ".join(str(name) for name in known if name),
                found=str(value),
                where=option,
                fix="choose one",
            )
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
                noise=noises[noise],
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

    True coverages 1/10, 1/17.9, 1/20, 1/50 and 1/87, without and with the published detection
    noise, at most four crops of 512 px of each field of view, one seed. Tells hashes of data and
    weights, the ratio to the best baseline with a bootstrap interval, and draws the worst ten
    images. A crop takes some ten seconds on one core, beside what the model takes for ten scans.
    """
    from stem_complete.console import ProgressBar, say
    from stem_complete.inference import load_completer, run_protocol
    from stem_complete.inference.protocol import NUM_WORST, draw_worst

    if split not in ("train", "validation", "test"):
        raise ConfigError(
            expected="train or validation or test", found=split, where="--split", fix="choose one"
        )
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
        _print_json(values)
    else:
        print(summary(values))


@app.command(
    epilog=examples(
        "stem-complete benchmark",
        "stem-complete benchmark alrc train_cpu --rounds 11 --output benchmark.json",
        "stem-complete benchmark store_reading --folder /data",
    )
)
def benchmark(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME ...]", help="Which ones; by default all.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Times that each figure is measured.")] = 7,
    folder: Annotated[
        Path | None,
        typer.Option(
            help="Where to write, so the disk that is measured; nothing is left there.",
            exists=True,
            file_okay=False,
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="JSON file for all values.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Small inputs: shows that it works, and no more.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Measures each part beside its limit or best peer, in turn in the same run.

    The table has medians with quartiles, and the ratio of each figure to what it is compared with.
    Leave the machine alone meanwhile: what else it does widens the quartiles.
    """
    from stem_complete.benchmarks import Effort, as_markdown, run_benchmarks
    from stem_complete.benchmarks import as_json as values_of

    if output is not None and not output.parent.is_dir():
        raise ConfigError(
            expected="a folder that is there", found="none", where=output.parent, fix="create it"
        )
    found = []
    for comparison in run_benchmarks(names or [], Effort(rounds, quick), folder):
        found.append(comparison)
        if output is not None:  # a long run that is interrupted leaves what it has
            output.write_text(json.dumps(values_of(found), indent=1))
    if as_json:
        _print_json(values_of(found))
    else:
        print(as_markdown(found))


def main() -> None:
    """Runs the command line; known errors become one line and an exit code."""
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    logging.captureWarnings(True)
    try:
        app()
    except StemCompleteError as error:
        _fail(str(error), error.exit_code)
    except OSError as error:
        _fail(str(error), 1)
    except SystemExit as stop:
        if stop.code in (INTERRUPTED, TERMINATED):
            _fail("interrupted; start it again to go on", int(stop.code))
        raise


def _fail(message: str, code: int) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


def _print_json(values: Any) -> None:
    print(json.dumps(values, indent=2, allow_nan=False, default=str))
