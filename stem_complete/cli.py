"""Command line. Each command parses its arguments, calls one function and prints its result."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

import stem_complete
from stem_complete.errors import ConfigError, StemCompleteError

app = typer.Typer(
    name="stem-complete",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Completes scanning transmission electron micrographs from partial scans, and trains the "
    "networks that do it.",
    epilog="Start with [bold]stem-complete demo[/bold]: the whole chain on real micrographs.",
)

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def examples(*lines: str) -> str:
    """Epilog of a command's help: one example a line."""
    return "\n\n".join(("[bold]Examples[/bold]", *lines))


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
    output: Annotated[
        Path, typer.Option(help="Folder for everything that is made.")
    ] = Path("stem-complete-demo"),
    seed: Annotated[int, typer.Option(min=0, help="Seed of the training.")] = 0,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[section.field=value ...]", help="Changes to the demo's config."),
    ] = None,
) -> None:
    """Runs the whole chain on real micrographs that come with the program.

    Ingests them, trains the compact network on a local two-worker Ray cluster with ALRC, tracks
    the run in MLflow, completes the published noisy partial scans and compares them with classical
    interpolation. Takes about 10 minutes on two cores; when interrupted, start it again and it
    goes on.
    """
    from stem_complete.demo import run_demo

    run_demo(output, seed=seed, overrides=overrides or [])
