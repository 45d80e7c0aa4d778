"""The command that compares tracked runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stem_complete.cli.base import Json, app, examples, print_json, show


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
    baseline: Annotated[
        str | None,
        typer.Option(help="Arm that the others are compared with; by default the first by name."),
    ] = None,
    reach: Annotated[
        float | None,
        typer.Option(help="Tell the steps to this loss; by default to one that all arms reach."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Draws learning curves of tracked runs and tests their differences, from MLflow alone."""
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
        baseline=baseline,
        loss_to_reach=reach,
    )
    print_json(comparison.to_dict()) if as_json else show(comparison.markdown)
