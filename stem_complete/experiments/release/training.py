"""Trains the released model some more, in slices, from the model itself.

    python -m stem_complete.experiments.release.training --store released.zarr --output results
    torchrun --nproc-per-node 2 -m stem_complete.experiments.release.training --store ...
    python -m stem_complete.experiments.release.training --publish results

The store is that of `stem_complete.experiments.release.store`. The first slice in an output folder
is a warm start: it has the model's weights and ALRC moments, and Adam's moments begin at 0. Further
slices in the same folder resume exactly. It needs neither Ray nor MLflow, and may be stopped at any
time. The output folder then holds `any-dose/`, a run as `stem-complete train` writes it, with the
model in `any-dose/model/`.

`--publish` puts that model, and what further training needs, into the package, in place of those
there.
"""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from stem_complete.config import Config, load_config
from stem_complete.console import errors_in_one_line, say
from stem_complete.distributed import under_torchrun
from stem_complete.errors import ArtifactError
from stem_complete.experiments.release.warm_start import save_rest, write_start
from stem_complete.inference import MODEL_FOLDER, RELEASED_MODEL
from stem_complete.inference.card import CARD_FILE, WEIGHTS_FILE, read_card
from stem_complete.launch import launch
from stem_complete.training import Checkpoints

REST = Path(__file__).with_name("rest.safetensors")
"""What further training needs beside the released model."""

MAX_MIB = 16
# At the recipe's 1e-3 validation stood still from 20,000 to 24,000 steps, see docs/ablation.md.
LEARNING_RATE = 2e-4


def train_slice(config: Config) -> None:
    """Trains and exports; a run that has no checkpoint begins with the released model."""
    first = int(os.environ.get("RANK", "0")) == 0
    if first and REST.exists() and not Checkpoints(config.run_folder).folders():
        step = write_start(config, RELEASED_MODEL, REST)
        say(f"warm start at step {step:,}: the released model's weights, Adam's moments at 0")
    launch(config, local=not under_torchrun())


def publish(run: Path) -> None:
    """Takes over the model of a run, and what further training needs.

    Raises:
        ArtifactError: There is none, or it is too large for the package.
    """
    model = run / MODEL_FOLDER
    checkpoint = Checkpoints(run).latest()
    weights = model / WEIGHTS_FILE
    size = weights.stat().st_size if weights.exists() else 0
    if checkpoint is None or not 0 < size <= MAX_MIB * 2**20:
        raise ArtifactError(
            expected=f"a checkpoint and weights of at most {MAX_MIB} MiB",
            found=f"{size:,} bytes of weights",
            where=model,
            fix="train first",
        )
    save_rest(checkpoint, Config.model_validate(checkpoint.config), REST)
    RELEASED_MODEL.mkdir(exist_ok=True)
    shutil.copyfile(weights, RELEASED_MODEL / WEIGHTS_FILE)
    card = read_card(model)
    # Of this machine's folders the names alone.
    names = {"storage": Path(card.config["storage"]).name}
    names |= {"data": card.config["data"] | {"store": Path(card.config["data"]["store"]).name}}
    card = card.model_copy(update={"config": card.config | names})
    (RELEASED_MODEL / CARD_FILE).write_text(card.model_dump_json(indent=2) + "\n")
    say(f"{model} -> {RELEASED_MODEL}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store", type=Path, help="of stem_complete.experiments.release.store")
    parser.add_argument("--output", type=Path, help="folder to work in and to go on from")
    parser.add_argument("--minutes", type=float, default=60.0, help="wall time, export aside")
    parser.add_argument("--publish", type=Path, metavar="OUTPUT", help="only take over its results")
    parser.add_argument("overrides", nargs="*", help="section.field=value changes to any_dose.yaml")
    options = parser.parse_args(arguments)
    if options.publish is not None:
        publish(options.publish / "any-dose")
        return
    if options.store is None or options.output is None:
        parser.error("--store and --output are needed")
    changes = [
        f"storage={options.output.absolute()}",
        f"data.store={options.store.absolute()}",
        f"training.max_minutes={options.minutes}",
        f"optimizer.learning_rate={LEARNING_RATE}",
        "tracking.enabled=false",
    ]
    train_slice(load_config(["any_dose"], [*changes, *options.overrides]))


if __name__ == "__main__":
    with errors_in_one_line():
        main()
