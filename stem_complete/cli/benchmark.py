"""The command that measures the user's machine."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from stem_complete.cli.base import Json, app, examples, print_json


@app.command(
    epilog=examples(
        "stem-complete benchmark",
        "stem-complete benchmark paper data.store=/data/store.zarr "
        "training.batch_size=8 --device cuda",
    )
)
def benchmark(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CONFIG...] [section.field=value ...]",
            help="What to train, by default the compact network on bundled micrographs.",
        ),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Times that each is measured.")] = 7,
    device: Annotated[
        str | None, typer.Option(help="Such as cpu or cuda; by default a GPU if there is one.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measures this machine: a training step, a completion, and the loader that feeds training.

    They take turns, so that whatever slows the machine down slows all three. Prints medians with
    quartiles.
    """
    import torch

    from stem_complete import benchmark as measuring
    from stem_complete.config import load_config
    from stem_complete.data.bundled import example_micrographs
    from stem_complete.data.store.ingest import ingest
    from stem_complete.data.store.splits import CROP_OF_ONE_FIELD
    from stem_complete.data.store.store import MicrographStore

    files = [Path(argument) for argument in arguments or [] if "=" not in argument]
    changes = [argument for argument in arguments or [] if "=" in argument]
    with TemporaryDirectory(prefix="stem-complete-") as folder:
        store = Path(folder) / "store.zarr"
        defaults = [] if files else ["model.preset=compact"]
        config = load_config(files, ["name=benchmark", f"data.store={store}", *defaults, *changes])
        if config.data.store == store:
            ingest(example_micrographs(), store, group_pattern=CROP_OF_ONE_FIELD)
        where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        found = measuring.benchmark(config, MicrographStore(config.data.store), where, rounds)
    if as_json:
        print_json({"machine": measuring.machine(), "rates": [rate._asdict() for rate in found]})
    else:
        print(measuring.as_text(found))
