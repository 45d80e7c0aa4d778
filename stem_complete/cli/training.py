"""Commands that train networks and compare runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stem_complete.cli.base import Json, app, examples, print_json
from stem_complete.errors import ConfigError


@app.command(
    epilog=examples(
        "stem-complete train compact data.store=store.zarr",
        "stem-complete train paper scaling.num_workers=8",
        "torchrun --nproc-per-node 2 -m stem_complete train compact",
        "ray job submit --working-dir . -- python -m stem_complete train paper "
        "storage=/shared/runs data.store=/shared/store.zarr",
    )
)
def train(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="CONFIG... [section.field=value ...]",
            help="YAML files or names of bundled configs, then changes to them.",
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

    files = [argument for argument in arguments if "=" not in argument]
    changes = [argument for argument in arguments if "=" in argument]
    if not files:
        raise ConfigError(
            expected="a config file",
            found="only changes",
            where="train",
            fix="name one, for example compact",
        )
    outcomes = launch(load_config(files, changes), local=local)
    if as_json:
        print_json(
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
        print_json(comparison.to_dict())
    else:
        print(comparison.markdown)
