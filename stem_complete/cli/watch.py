"""The command that completes scans as an instrument's software drops them into a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stem_complete.cli.base import Precision, app, examples, show
from stem_complete.vocabulary import CompletionFormat

if TYPE_CHECKING:
    from stem_complete.serving.batch.run import CompleteReport


@app.command(
    epilog=examples(
        "stem-complete watch /data/incoming --output /data/completed",
        "stem-complete watch incoming/ --output completed/ --dwell dwells/ --error-map --png",
        "stem-complete watch incoming/ --output completed/ --settle 10 --format ome-zarr",
    )
)
def watch(
    folder: Annotated[Path, typer.Argument(help="Where scans come, also in its subfolders.")],
    output: Annotated[Path, typer.Option(help="Folder of completions.")],
    model: Annotated[str | None, typer.Option(help="As for `complete`.")] = None,
    dwell: Annotated[str | None, typer.Option(help="Dwell maps, as for `complete`.")] = None,
    settle: Annotated[
        float, typer.Option(min=0.1, help="A scan is whole once it stood still for so long [s].")
    ] = 2.0,
    file_format: Annotated[
        CompletionFormat | None, typer.Option("--format", help="As for `complete`.")
    ] = None,
    png: Annotated[bool, typer.Option("--png", help="Also write a preview.")] = False,
    error_map: Annotated[
        bool, typer.Option("--error-map", help="Also write the expected error of each pixel.")
    ] = False,
    self_check: Annotated[
        bool, typer.Option("--self-check/--no-self-check", help="As for `complete`.")
    ] = True,
    device: Annotated[
        str | None, typer.Option(help="cpu or cuda; by default what is there.")
    ] = None,
    precision: Precision = "float32",
) -> None:
    """Completes scans as they come into a folder, until it is stopped.

    A scan is completed once its file, and its dwell map if it needs one, have stood still for a
    while. Started again, it passes over what is completed already.
    """
    import signal
    import threading

    from stem_complete.inference import Outputs, load_completer
    from stem_complete.serving.batch.in_process import InProcess
    from stem_complete.serving.watch import Watch

    stop = threading.Event()
    watching = Watch(
        folder,
        InProcess(load_completer(model, device, precision=precision)),
        output,
        dwell=dwell,
        settle_s=settle,
        file_format=file_format,
        outputs=Outputs(png=png, error_map=error_map, self_check=self_check),
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    show(f"watching {folder}; completions go to {output}")
    watching.run(stop, _tell)


def _tell(report: CompleteReport) -> None:
    from stem_complete.console import say

    for scan, image in report.done.items():
        show(f"{scan} -> {image}")
    for scan, reason in report.failed.items():
        say(f"failed: {scan}: {reason}")
