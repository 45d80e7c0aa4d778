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
    coverage: Annotated[
        list[str] | None, typer.Option(help="Mean dwell such as 1/20; by default the model's.")
    ] = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            help="Classical methods; by default the fast ones. With --protocol, more of them: bm3d."
        ),
    ] = None,
    noise: Annotated[
        Literal["none", "reference"] | None, typer.Option(help="By default as in training.")
    ] = None,
    num_images: Annotated[
        int | None,
        typer.Option(
            min=1,
            help=f"At most so many crops; by default {DEFAULT_NUM_IMAGES}, with --protocol and "
            "--equal-dose all.",
        ),
    ] = None,
    split: Split = "test",
    seed: Annotated[
        int | None, typer.Option(min=0, help=f"Seed of the noise; by default {DEFAULT_SEED}.")
    ] = None,
    precision: Precision = "float32",
    output: Annotated[
        Path | None,
        typer.Option(
            help="Also write the JSON to this file; with --protocol, folder for tables as JSON, "
            "Markdown and CSV, pictures and the cells that are done; with --equal-dose, for tables "
            "and a picture."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Scores completions of simulated scans against the truth, beside classical interpolation.

    The protocol is always the same: ten geometries, true coverages 1/2, 1/5, 1/10, 1/20, 1/50 and
    1/87, electrons counted along the path without noise and at doses of 1000, 100 and 20 electrons
    per full pixel dwell, spirals with the published detection noise too, at most four crops of
    512 px of each field of view, one seed. In each of its 212 cells it tells the geometric mean,
    over the crops, of the ratio to the best tuned baseline, with a bootstrap interval, the share of
    crops that are better, the worst one, and whether the error map is right. A cell takes about a
    second for each crop on one free core: an hour and a half for all cells of 28 crops. Cells that
    are in the output folder, of the same data and weights, are kept: run it in parts, or again
    after it was stopped.

    Equal dose: for 1 to 100 electrons per pixel of the image, full rasters, denoised, beside sparse
    scans that are completed.
    """
    from stem_complete import evaluation
    from stem_complete.config import NoNoiseConfig, ReferenceNoiseConfig
    from stem_complete.console import ProgressBar, counted, say
    from stem_complete.inference import load_completer

    fixed = "--protocol" if protocol else "--equal-dose"
    if (not data) == (not published) or (published and (protocol or equal_dose)):
        raise ConfigError(
            expected="either --data or --published",
            found="both" if data else fixed if published else "neither",
            where="evaluate",
            fix=f"give one of them; {fixed} needs --data",
        )
    given = {
        "--protocol": protocol or None,
        "--only": only,
        "--coverage": coverage,
        "--noise": noise,
        "--seed": seed,
        "--baseline": baseline,
    }
    barred = ["--coverage", "--noise", "--seed"] if protocol else list(given) if equal_dose else []
    if extra := [name for name in barred if given[name] is not None]:
        raise ConfigError(
            expected=f"{fixed} without these, as its conditions are fixed",
            found=" and ".join(extra),
            where="evaluate",
            fix="leave them out",
        )
    if protocol and equal_dose:
        raise ConfigError(
            expected="--protocol or --equal-dose",
            found="both",
            where="evaluate",
            fix="leave one of them out",
        )
    if only and not protocol:
        raise ConfigError(
            expected="--only with --protocol",
            found="--only alone",
            where="evaluate",
            fix="add --protocol",
        )
    if (protocol or equal_dose) and output is not None and output.exists() and not output.is_dir():
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
        elif equal_dose:
            compared = evaluation.compare_at_equal_dose(
                data,
                completer,
                split=split,
                max_images=num_images,
                output=output,
                progress=bar.show,
            )
            print(compared.to_json() if as_json else evaluation.equal_dose_tables(compared))
            return
        elif protocol:
            conditions = evaluation.chosen(only or ())
            say(f"{counted(len(conditions), 'condition')} of {len(evaluation.PROTOCOL)}")
            report = evaluation.evaluate_protocol(
                data,
                completer,
                conditions=conditions,
                more_baselines=baseline or (),
                split=split,
                max_images=num_images,
                output=output,
                progress=bar.show,
            )
        else:
            num_images, seed = num_images or DEFAULT_NUM_IMAGES, seed or DEFAULT_SEED
            images = evaluation.load_micrographs(data, split=split, max_images=num_images)
            card = completer.card if completer else None
            chosen = evaluation.conditions_of(card, coverage or (), noises[noise])
            report = evaluation.evaluate(images, methods, chosen, seed=seed, progress=bar.show)
    for line in report.left_out:
        say(f"left out: {line}")
    if output is not None and not protocol:
        output.write_text(report.to_json())
    table = evaluation.by_condition if protocol else evaluation.by_method
    print(report.to_json() if as_json else table(report))
