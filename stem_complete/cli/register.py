"""The command that puts models into MLflow's registry."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from stem_complete.cli.base import Json, app, examples, print_json, show


@app.command(
    epilog=examples(
        "stem-complete register runs/compact --name gold --alias production",
        "stem-complete register runs/compact/model --name gold --uri http://mlflow:5000",
        "stem-complete register runs:/0b8f4c1d --name gold --alias candidate",
    )
)
def register(
    run: Annotated[
        str, typer.Argument(help="A run's folder, a model folder, or `runs:/ID` of MLflow.")
    ],
    name: Annotated[str, typer.Option(help="Name of the registered model.")],
    alias: Annotated[
        str | None, typer.Option(help="Alias that leads to this version from now on.")
    ] = None,
    uri: Annotated[
        str | None,
        typer.Option(
            help="Tracking server; by default the SQLite file beside the run.",
            envvar="MLFLOW_TRACKING_URI",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Puts the model of a run into MLflow's registry, as a new version of a name.

    `complete --model models:/NAME@ALIAS` then takes it, on any machine that reaches the server.
    """
    from stem_complete.console import aligned
    from stem_complete.inference import register_model

    registered = register_model(run, name, alias, uri=uri)
    if as_json:
        print_json(asdict(registered) | {"model": registered.source})
    else:
        show(aligned({"model": registered.source, **registered.places}))
