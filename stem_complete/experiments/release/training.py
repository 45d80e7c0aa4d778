"""Trains the released model's successor, in slices, from its own weights.

    python -m stem_complete.experiments.release.training --store released.zarr --output results
    torchrun --nproc-per-node 2 -m stem_complete.experiments.release.training --store ...
    python -m stem_complete.experiments.release.training --keep results
    python -m stem_complete.experiments.release.training --publish results
    python -m stem_complete.experiments.release.training --store released.zarr --calibrate

The store is that of `stem_complete.experiments.release.store`. The first slice in an output folder
is a warm start: it has the weights and ALRC moments of `next/`, or of the released model if there
is no successor, and Adam's moments begin at 0. Further slices in the same folder resume exactly. It
needs neither Ray nor MLflow, and may be stopped at any time. The output folder then holds
`any-scan/`, a run as `stem-complete train` writes it, with the model in `any-scan/model/`.

`--keep` puts that model, and what further training needs, into `next/`, for the next slice on
another machine. `--publish` puts them into the package, in place of the released model.
`--calibrate` fits the error map of the released model anew, on the store's validation split: its
weights stay as they are.
"""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from stem_complete.config import Config, load_config
from stem_complete.console import ProgressBar, errors_in_one_line, say
from stem_complete.data.store.store import MicrographStore
from stem_complete.distributed import under_torchrun
from stem_complete.errors import ArtifactError
from stem_complete.experiments.release.warm_start import save_rest, write_start
from stem_complete.files import write_atomically
from stem_complete.inference import MODEL_FOLDER, RELEASED_MODEL, Completer
from stem_complete.inference.card import CARD_FILE, read_card
from stem_complete.inference.export import calibrate
from stem_complete.inference.sources import load_model
from stem_complete.launch import launch
from stem_complete.training import Checkpoints
from stem_complete.vocabulary import WEIGHTS_FILE

REST = Path(__file__).with_name("rest.safetensors")
"""What further training needs beside the released model."""

NEXT = Path(__file__).with_name("next")
"""The released model's successor while it is trained, with a file like `REST` beside it."""

RECIPE = "any_scan"
MAX_MIB = 16
# For as long as the validation error falls; then 2e-4.
LEARNING_RATE = 8e-4


def train_slice(config: Config) -> None:
    """Trains and exports; a run that has no checkpoint begins with the latest weights."""
    first = int(os.environ.get("RANK", "0")) == 0
    model, rest = (NEXT, NEXT / REST.name) if NEXT.exists() else (RELEASED_MODEL, REST)
    if first and rest.exists() and not Checkpoints(config.run_folder).folders():
        step = write_start(config, model, rest)
        say(f"warm start at step {step:,}: the weights of {model.name}, Adam's moments at 0")
    launch(config, local=not under_torchrun())


def publish(run: Path) -> None:
    """Takes over the model of a run as the released one, and what further training needs.

    Raises:
        ArtifactError: There is none, or it is too large for the package.
    """
    _take_over(run, RELEASED_MODEL, REST)
    shutil.rmtree(NEXT, ignore_errors=True)


def keep(run: Path) -> None:
    """Takes over the model of a run as the successor, for further training.

    Raises:
        ArtifactError: There is none, or it is too large for the package.
    """
    _take_over(run, NEXT, NEXT / REST.name)


def calibrate_released(store: Path) -> None:
    """Fits the released model's error map anew, after a change of what it is fitted to."""
    released = load_model(RELEASED_MODEL)
    config = Config.model_validate(released.card.config)
    num_scans = load_config([RECIPE], [f"data.store={store}"]).training.calibration_scans
    with ProgressBar("calibrating") as bar:
        calibration = calibrate(
            Completer(released, "cpu"),
            config,
            MicrographStore(store),
            num_scans=num_scans,
            progress=bar.show,
        )
    card = released.card.model_copy(update={"calibration": calibration})
    write_atomically(RELEASED_MODEL / CARD_FILE, card.model_dump_json(indent=2) + "\n")
    say(f"{RELEASED_MODEL}: error map calibrated")


def _take_over(run: Path, target: Path, rest: Path) -> None:
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
    target.mkdir(exist_ok=True)
    save_rest(checkpoint, Config.model_validate(checkpoint.config), rest)
    shutil.copyfile(weights, target / WEIGHTS_FILE)
    card = read_card(model)
    # Of this machine's folders the names alone.
    names = {"storage": Path(card.config["storage"]).name}
    names |= {"data": card.config["data"] | {"store": Path(card.config["data"]["store"]).name}}
    card = card.model_copy(update={"config": card.config | names})
    (target / CARD_FILE).write_text(card.model_dump_json(indent=2) + "\n")
    say(f"{model} -> {target}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store", type=Path, help="of stem_complete.experiments.release.store")
    parser.add_argument("--output", type=Path, help="folder to work in and to go on from")
    parser.add_argument("--minutes", type=float, default=60.0, help="wall time, export aside")
    parser.add_argument("--keep", type=Path, metavar="OUTPUT", help="only keep its results")
    parser.add_argument("--publish", type=Path, metavar="OUTPUT", help="only release its results")
    parser.add_argument("--calibrate", action="store_true", help="only fit the released error map")
    parser.add_argument("overrides", nargs="*", help="section.field=value changes to the recipe")
    options = parser.parse_args(arguments)
    for output, take_over in ((options.keep, keep), (options.publish, publish)):
        if output is not None:
            take_over(output / load_config([RECIPE]).name)
            return
    if options.calibrate:
        if options.store is None:
            parser.error("--store is needed")
        calibrate_released(options.store)
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
    train_slice(load_config([RECIPE], [*changes, *options.overrides]))


if __name__ == "__main__":
    with errors_in_one_line():
        main()
