"""The application to which commands add themselves, and options and output that they share."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

import typer

import stem_complete
from stem_complete.credentials import hidden

app = typer.Typer(
    name="stem-complete",
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Completes scanning transmission electron micrographs from partial scans, and trains the "
    "networks that do it.",
    epilog="Start with `stem-complete demo`: the whole chain on real micrographs.",
)

Precision = Annotated[
    Literal["float32", "bf16"],
    typer.Option(help="Of the network; bf16 is twice as fast on devices that have it."),
]
Split = Annotated[
    Literal["train", "validation", "test"], typer.Option(help="Part of a store to use.")
]
OnRay = Annotated[
    bool,
    typer.Option(
        "--ray",
        help="Work on Ray: on the cluster that the job was submitted to or that RAY_ADDRESS names, "
        "or on a local one.",
    ),
]
Address = Annotated[str | None, typer.Option(help="HOST:PORT of a Ray cluster to use, instead.")]
NumWorkers = Annotated[
    int | None, typer.Option(min=1, help="Workers on Ray; by default what it has room for.")
]
GpuWorkers = Annotated[bool, typer.Option("--gpu", help="A GPU for each worker.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def examples(*lines: str) -> str:
    """Epilog of a command's help: one example an item."""
    return "\n".join(("**Examples**\n", *(f"* `{line}`" for line in lines)))


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        print(stem_complete.__version__)
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(2)


def show(result: str) -> None:
    """Prints a result, without the passwords of its URLs."""
    print(hidden(result), flush=True)


def print_json(values: Any) -> None:
    """Prints a result for programs."""
    show(json.dumps(values, indent=2, allow_nan=False, default=str))


def check_on_ray(command: str, *, on_ray: bool, address: str | None, workers: int | None) -> bool:
    """Whether a command is to work on Ray.

    Raises:
        ConfigError: There are to be several workers without it.
        MissingPackageError: Ray is not installed.
    """
    from stem_complete.errors import ConfigError
    from stem_complete.extras import require

    if on_ray or address is not None:
        require("ray", purpose=f"{command} on Ray")
        return True
    if workers is not None:
        raise ConfigError(
            expected="--ray, for several workers",
            found=f"--workers {workers} alone",
            where=command,
            fix="add --ray",
        )
    return False


def end_batch(failed: Mapping[str, str], notes: Iterable[str], result: str) -> None:
    """Says why files failed, then the notes, and prints the result; exits with 1 if any failed."""
    from stem_complete.console import say
    from stem_complete.errors import in_one_line

    for file, reason in failed.items():
        name = in_one_line(file)
        # Most reasons name the file themselves.
        say(f"failed: {reason if name in reason else f'{name}: {reason}'}")
    for note in notes:
        say(in_one_line(note))
    show(result)
    if failed:
        raise typer.Exit(1)
