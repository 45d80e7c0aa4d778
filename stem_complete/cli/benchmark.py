"""The command that measures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from stem_complete.cli.base import Json, app, examples, print_json
from stem_complete.errors import ConfigError


@app.command(
    epilog=examples(
        "stem-complete benchmark",
        "stem-complete benchmark alrc train_cpu --rounds 11 --output benchmark.json",
        "stem-complete benchmark store_reading --folder /data",
    )
)
def benchmark(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME ...]", help="Which ones; by default all.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Times that each figure is measured.")] = 7,
    folder: Annotated[
        Path | None,
        typer.Option(
            help="Where to write, so the disk that is measured; nothing is left there.",
            exists=True,
            file_okay=False,
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="JSON file for all values.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Small inputs: shows that it works, and no more.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Measures each part beside its limit or best peer, in turn in the same run.

    The table has medians with quartiles, and the ratio of each figure to what it is compared with.
    Leave the machine alone meanwhile: what else it does widens the quartiles.
    """
    from stem_complete.benchmarks import Effort, as_markdown, run_benchmarks
    from stem_complete.benchmarks import as_json as values_of

    if output is not None and not output.parent.is_dir():
        raise ConfigError(
            expected="a folder that is there", found="none", where=output.parent, fix="create it"
        )
    found = []
    for comparison in run_benchmarks(names or [], Effort(rounds, quick), folder):
        found.append(comparison)
        if output is not None:  # a long run that is interrupted leaves what it has
            output.write_text(json.dumps(values_of(found), indent=1))
    if as_json:
        print_json(values_of(found))
    else:
        print(as_markdown(found))
