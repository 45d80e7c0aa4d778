"""The command that judges completions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from stem_complete.cli.base import Json, Precision, Split, app, examples
from stem_complete.errors import ConfigError

DEFAULT_NUM_IMAGES, DEFAULT_SEED = 32, 0


@app.command(
    epilog=examples(
        "stem-complete evaluate --model MODEL --data store.zarr --coverage 1/20 --coverage 1/50",
        "stem-complete evaluate --data images/ --coverage 1/20",
        "stem-complete evaluate --model released --published",
        "stem-complete evaluate --protocol --model released --data images/ --output protocol/",
        "stem-complete evaluate --protocol --data day1/ --data 'day2/*.tif' --output baselines/",
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
    coverage: Annotated[
        list[str] | None, typer.Option(help="Mean dwell such as 1/20; by default the model's.")
    ] = None,
    baseline: Annotated[
        list[str] | None, typer.Option(help="Classical methods; by default all but biharmonic.")
    ] = None,
    noise: Annotated[
        Literal["none", "reference"] | None, typer.Option(help="By default as in training.")
    ] = None,
    num_images: Annotated[
        int | None,
        typer.Option(min=1, help=f"At most so many crops; by default {DEFAULT_NUM_IMAGES}."),
    ] = None,
    split: Split = "test",
    seed: Annotated[
        int | None, typer.Option(min=0, help=f"Seed of the noise; by default {DEFAULT_SEED}.")
    ] = None,
    precision: Precision = "float32",
    output: Annotated[
        Path | None,
        typer.Option(
            help="Also write the JSON to this file; with --protocol, folder for protocol.json, "
            "protocol.md and worst.png."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Scores completions of simulated scans against the truth, beside classical interpolation.

    The protocol is always the same: spirals of a probe at constant speed and spirals as the
    published code draws them, true coverages 1/10, 1/17.9, 1/20, 1/50 and 1/87, without and with
    the published detection noise, at most four crops of 512 px of each field of view, one seed. It
    tells hashes of data and weights, the ratio to the best baseline with a bootstrap interval, and
    draws the worst ten images. A crop takes some thirty seconds on one core, beside what the model
    takes for twenty scans.
    """
    from stem_complete import evaluation
    from stem_complete.config import NoNoiseConfig, ReferenceNoiseConfig
    from stem_complete.console import ProgressBar, say
    from stem_complete.inference import load_completer

    if (not data) == (not published) or (published and protocol):
        raise ConfigError(
            expected="either --data or --published",
            found="both" if data else "--protocol" if published else "neither",
            where="evaluate",
            fix="give one of them; the protocol needs --data",
        )
    names = ("--coverage", "--baseline", "--noise", "--num-images", "--seed")
    values = (coverage, baseline, noise, num_images, seed)
    given = [name for name, value in zip(names, values, strict=True) if value is not None]
    if protocol and given:
        raise ConfigError(
            expected="--protocol alone, as its conditions are fixed",
            found=" and ".join(given),
            where="evaluate",
            fix="leave one of them out",
        )
    if protocol and output is not None and output.exists() and not output.is_dir():
        raise ConfigError(
            expected="a folder", found="a file", where=output, fix="give another --output"
        )
    completer = load_completer(model, precision=precision) if model is not None else None
    methods = evaluation.baseline_methods(baseline or evaluation.DEFAULT_BASELINES)
    if completer is not None:
        methods = {evaluation.MODEL: evaluation.Model(completer)} | methods
    noises = {None: None, "none": NoNoiseConfig(), "reference": ReferenceNoiseConfig()}
    with ProgressBar("evaluating") as bar:
        if data is None:
            report = evaluation.evaluate_published(methods)
        elif protocol:
            report = evaluation.evaluate_protocol(
                data, completer, split=split, output=output, progress=bar.show
            )
        else:
            num_images, seed = num_images or DEFAULT_NUM_IMAGES, seed or DEFAULT_SEED
            images = evaluation.load_micrographs(data, split=split, max_images=num_images)
            card = completer.card if completer else None
            conditions = evaluation.conditions_of(card, coverage or (), noises[noise])
            report = evaluation.evaluate(images, methods, conditions, seed=seed, progress=bar.show)
    for line in report.left_out:
        say(f"left out: {line}")
    if output is not None and not protocol:
        output.write_text(report.to_json())
    table = evaluation.by_condition if protocol else evaluation.by_method
    print(report.to_json() if as_json else table(report))
