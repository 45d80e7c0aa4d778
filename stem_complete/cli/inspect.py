"""The command that looks into files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stem_complete.cli.base import Json, app, examples, print_json, show
from stem_complete.console import say


@app.command(
    epilog=examples(
        "stem-complete inspect store.zarr --contact-sheet sheet.png",
        "stem-complete inspect runs/compact/model",
        "stem-complete inspect image.dm4",
        "stem-complete inspect runs/compact --spikes",
    )
)
def inspect(
    path: Annotated[
        str, typer.Argument(help="A store, a model, a run or its URL, a scan or an image.")
    ],
    contact_sheet: Annotated[
        Path | None, typer.Option(help="Also draw crops of a store into this PNG.")
    ] = None,
    spikes: Annotated[
        bool,
        typer.Option(
            "--spikes",
            help="List the losses of a run that were clipped hardest, and draw their scans.",
        ),
    ] = False,
    picture: Annotated[
        Path, typer.Option(help="PNG that --spikes draws into.", show_default=True)
    ] = Path("spikes.png"),
    everything: Annotated[
        bool, typer.Option("--all", help="Print all that is known, not only what fits a screen.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Tells what a store, model, run, scan or image file contains."""
    if spikes:
        from stem_complete.spikes import draw_spikes, spikes_of_run, spikes_table

        found = spikes_of_run(path)
        if as_json:
            print_json({"spikes": [spike._asdict() for spike in found]})
        else:
            show(spikes_table(found))
        if found:
            draw_spikes(path, picture)
            say(f"picture  {picture}")
        return

    from stem_complete import summaries
    from stem_complete.inspection import draw_store, inspect_path

    values = inspect_path(path)
    if contact_sheet is not None:
        draw_store(Path(path), contact_sheet)
    if as_json:
        print_json(values)
    else:
        show(summaries.everything(values) if everything else summaries.screen(values))
