"""The command that trains networks."""

from __future__ import annotations

from typing import Annotated

import typer

from stem_complete.cli.base import Json, app, examples, print_json
from stem_complete.errors import ConfigError


@app.command(
    epilog=examples(
        "stem-complete train compact data.store=store.zarr",
        "stem-complete train paper scaling.num_workers=8",
        "stem-complete train supersampling table_1 data.store=cifar-10-batches-bin --fraction 0.1",
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
            "--local", help="Train in this process, without Ray. Processes of torchrun always do."
        ),
    ] = False,
    fraction: Annotated[
        float | None,
        typer.Option(help="Train a shorter version, of this fraction of training.steps."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Trains a network, or a sweep of them, and exports it for `complete`.

    Runs on the Ray cluster that the job was submitted to, or on a local one. Started again with
    the same name and storage, it goes on from its last checkpoint.
    """
    from stem_complete.config import load_config, shortened
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
    if local:  # before the config is checked against a number of workers that there will not be
        changes += ["scaling.num_workers=1", "scaling.min_workers=null"]
    config = load_config(files, changes)
    outcomes = launch(config if fraction is None else shortened(config, fraction), local=local)
    if as_json:
        print_json([outcome.to_dict() for outcome in outcomes])
