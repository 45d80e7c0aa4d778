"""The whole chain in one command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stem_complete.cli.base import app, examples


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

    Ingests them, trains a small network from scratch on a local two-worker Ray cluster with ALRC,
    tracks the run in MLflow, completes the published noisy partial scans and spirals of counted
    electrons, and compares them with classical methods. Takes some minutes on two cores.
    Interrupted, it goes on when started again.
    """
    from stem_complete.demo import run_demo

    run_demo(output, seed=seed, overrides=overrides or [])
