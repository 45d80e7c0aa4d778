"""The whole chain on bundled micrographs: ingest, train, track, complete, compare."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from shlex import quote

from stem_complete.config import DetectorNoiseConfig, load_config
from stem_complete.console import aligned, counted, heading, say, waiting
from stem_complete.data.bundled import example_licences, example_micrographs, published_triples
from stem_complete.data.store.ingest import ingest
from stem_complete.data.store.splits import CROP_OF_ONE_FIELD
from stem_complete.evaluation import (
    DEFAULT_BASELINES,
    MODEL,
    CompletionExample,
    Condition,
    Model,
    Report,
    baseline_methods,
    by_method,
    completion_figure,
    evaluate_published,
    linear,
    published_micrographs,
    published_scans,
    save_png,
    simulate,
)
from stem_complete.extras import program, require
from stem_complete.files import write_atomically
from stem_complete.inference import Completer, Outputs, load_completer
from stem_complete.launch import Outcome, launch
from stem_complete.serving.batch import complete_files

COUNTED = Condition("archimedean", 1 / 20, DetectorNoiseConfig(dose_electrons_per_px=100))
"""A spiral as an instrument makes it, beside the published scans, whose noise is pixel by pixel."""


def run_demo(output: Path, *, seed: int = 0, overrides: Sequence[str] = ()) -> Report:
    """Ingests, trains, completes and compares on the micrographs that come with the program.

    Everything is kept in `output`; started again, it repeats only what is missing.

    Args:
        output: Folder to work in.
        seed: Of the training.
        overrides: `section.field=value` changes to the config `demo`.

    Returns:
        Scores of the trained model, of the released one and of classical methods.

    Raises:
        StemCompleteError: Any of the steps failed.
    """
    require("ray", "mlflow", purpose="demo")
    output = output.absolute()
    store = output / "store.zarr"

    heading("1/4 real micrographs -> zarr store")
    _ingest(store)
    heading("2/4 training a small network on two Ray workers")
    changes = {
        "name": f"demo-seed{seed}",
        "training.seed": seed,
        "storage": output / "runs",
        "data.store": store,
    }
    config = load_config(["demo"], [*(f"{k}={v}" for k, v in changes.items()), *overrides])
    outcome = launch(config)[0]
    heading("3/4 completing the published noisy partial scans")
    completer, released = load_completer(str(outcome.model)), load_completer()
    _complete(completer, output / "completed")
    heading("4/4 comparing with classical interpolation")
    scores = _compare(completer, released, output)
    with waiting("drawing"):
        _draw(completer, released, output / "completions.png")
    print(by_method(scores))
    _say_where_all_is(output, outcome)
    return scores


def _ingest(store: Path) -> None:
    micrographs = example_micrographs()
    with waiting(f"ingesting {len(micrographs)} micrographs"):
        report = ingest(
            micrographs, store, licences=example_licences(), group_pattern=CROP_OF_ONE_FIELD
        )
    already = counted(len(report.already_there), "file")
    say(f"{counted(report.num_added, 'new crop')}, {already} already there")


def _complete(completer: Completer, folder: Path) -> None:
    published = published_triples()[0].scan.parent
    complete_files(
        [published / "partial_scan-*.tif"],
        completer,
        folder,
        dwell=published / "mask-{number}.tif",
        published=True,
        outputs=Outputs(png=True, error_map=completer.card.calibration is not None, overwrite=True),
    )


def _compare(completer: Completer, released: Completer, output: Path) -> Report:
    with waiting("running the classical methods"):
        models = {MODEL: Model(completer), "released model": Model(released)}
        scores = evaluate_published(models | baseline_methods(DEFAULT_BASELINES), [COUNTED])
    write_atomically(output / "scores.json", scores.to_json())
    write_atomically(output / "scores.md", by_method(scores) + "\n")
    return scores


def _say_where_all_is(output: Path, outcome: Outcome) -> None:
    say(
        "\nRMSE in % of the truth's range, against the truth blurred by 5x5 px, sigma 2.5 px.\n"
        "First the three published scans, then their pictures scanned along a spiral, electron by\n"
        "electron; neither network was trained on them. `model` is this one, `released model` the\n"
        "one that `complete` uses by default.\n"
    )
    places = {
        "figure": output / "completions.png",
        "completed scans": output / "completed",
        "scores": output / "scores.json",
        "micrographs": output / "store.zarr",
        "model": outcome.model,
        **outcome.places,
        "your own scans": f"{program()} complete SCANS --output FOLDER",
        "with this model": f"{program()} complete SCANS --output FOLDER --model "
        f"{quote(str(outcome.model))}",
    }
    say(aligned(places))


def _draw(completer: Completer, released: Completer, path: Path) -> None:
    scans = list(published_scans())
    # The second is of a lattice, and the scan of a crystal is what most will look at.
    names = {f"published scan {number}": scan for number, scan in enumerate(scans, start=1)}
    names["electrons counted"] = next(simulate(published_micrographs()[1:], COUNTED))
    examples = []
    for name, scan in names.items():
        completions = {"Linear interpolation": linear(scan.partial)} | {
            heading: model.complete_scan(scan.partial, error_map=False).image
            for heading, model in (("Released model", released), ("Demo's network", completer))
        }
        # Beside the truth itself: the blurred one of the scores looks as good as the completion.
        original = scan._replace(truth=scan.unblurred)
        examples.append(CompletionExample(name, original, completions))
    save_png(completion_figure(examples), path)
