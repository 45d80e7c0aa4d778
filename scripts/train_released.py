"""Trains the released model some more, from the checkpoint in this repository.

    python scripts/train_released.py --store released.zarr --minutes 60 --output results
    torchrun --nproc-per-node 2 scripts/train_released.py --store released.zarr --minutes 60 ...
    python scripts/train_released.py --store released.zarr --minutes 9 --output results --gpu
    python scripts/train_released.py --publish results

The store is that of `scripts/released_store.py`. It needs neither Ray nor MLflow, and may be
stopped and started again: with the same output folder it goes on from there. That folder then holds

    any-dose/     checkpoints and curve.jsonl: losses and validation errors by step
    checkpoint/   the newest checkpoint, Adam's moments in bfloat16
    model/        what it makes of it: the model that `complete` would use

`--publish` puts checkpoint and model into the repository, in place of those there.
"""

from __future__ import annotations

import argparse
import json
import shutil
import threading
import time
from collections.abc import Mapping
from contextlib import closing, nullcontext
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from stem_complete.config import Config, load_config
from stem_complete.console import say
from stem_complete.distributed import WorkerContext, torchrun_context
from stem_complete.inference import RELEASED_MODEL
from stem_complete.inference.export import export_checkpoint
from stem_complete.training import Checkpoint, Checkpoints, train
from stem_complete.training.stopping import stop_on_signals

REPOSITORY = Path(__file__).parents[1]
KEPT = REPOSITORY / "scripts" / "released"
MAX_MIB = {"checkpoint": 48, "model": 16}
# At the recipe's 1e-3 validation stood still from 20,000 to 24,000 steps, see ABLATION.md.
LEARNING_RATE = 2e-4


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store", type=Path, help="of scripts/released_store.py")
    parser.add_argument("--output", type=Path, help="folder to work in and to go on from")
    parser.add_argument("--minutes", type=float, default=60.0, help="wall time, export aside")
    parser.add_argument("--gpu", action="store_true", help="train on this process's GPU")
    parser.add_argument("--publish", type=Path, metavar="OUTPUT", help="only take over its results")
    parser.add_argument("overrides", nargs="*", help="section.field=value changes to any_dose.yaml")
    options = parser.parse_args()
    if options.publish is not None:
        _publish(options.publish)
        return
    if options.store is None or options.output is None:
        parser.error("--store and --output are needed")
    with torchrun_context(use_gpu=options.gpu) as context:
        config = load_config(
            ["any_dose"],
            [
                f"storage={options.output.absolute()}",
                f"data.store={options.store.absolute()}",
                f"scaling.use_gpu={options.gpu}",
                f"scaling.num_workers={context.world_size}",
                f"optimizer.learning_rate={LEARNING_RATE}",
                *options.overrides,
            ],
        )
        _train(config, context, options.minutes)
        if context.is_main:
            _export(config, options.output)


def _train(config: Config, context: WorkerContext, minutes: float) -> None:
    run = Path(config.run_folder)
    if context.is_main and not Checkpoints(run).folders():
        for start in (run.parent / "checkpoint", KEPT):
            if Checkpoints(start).folders():
                shutil.copytree(start / "checkpoints", run / "checkpoints", dirs_exist_ok=True)
                break
    with stop_on_signals() as stop:
        timer = threading.Timer(60 * minutes, stop, ["its time is over"])
        timer.daemon = True
        timer.start()
        try:
            recording = closing(Curve(run / "curve.jsonl")) if context.is_main else nullcontext()
            with recording as curve:
                result = train(config, context, recorder=curve, stop=stop)
        finally:
            timer.cancel()
    if context.is_main:
        say(f"{result.step:,} steps of {config.batch_size} micrographs")


def _export(config: Config, output: Path) -> None:
    newest = Checkpoints(config.run_folder).latest()
    assert newest is not None
    _save_compact(newest, output / "checkpoint")
    export_checkpoint(output / "checkpoint", output / "model", store=config.data.store)
    for name, limit in MAX_MIB.items():
        say(f"{output / name}: {_size(output / name) / 2**20:.1f} MiB of at most {limit}")


def _save_compact(checkpoint: Checkpoint, folder: Path) -> None:
    """The checkpoint with Adam's moments in bfloat16, which the run goes on from as well.

    Of this machine's folders it keeps the names alone.
    """
    config = dict(checkpoint.config)
    config["storage"] = Path(config["storage"]).name
    config["data"] = config["data"] | {"store": Path(config["data"]["store"]).name}
    optimizer = {
        name: value.to(torch.bfloat16) if name.endswith((".exp_avg", ".exp_avg_sq")) else value
        for name, value in checkpoint.state["optimizer"].items()
    }
    shutil.rmtree(folder, ignore_errors=True)
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(
            checkpoint.step,
            checkpoint.state | {"optimizer": optimizer},
            config=config,
            metrics=checkpoint.metrics,
            score=None,
        )
        checkpoints.wait()


def _publish(output: Path) -> None:
    for name, limit in MAX_MIB.items():
        size = _size(output / name)
        if not 0 < size <= limit * 2**20:
            raise SystemExit(
                f"expected 1 byte to {limit} MiB, found {size:,} bytes in {output / name}; "
                "train first"
            )
    shutil.rmtree(KEPT / "checkpoints", ignore_errors=True)
    for name, target in (("checkpoint", KEPT), ("model", RELEASED_MODEL)):
        shutil.copytree(output / name, target, dirs_exist_ok=True)
        say(f"{output / name} -> {target}")


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


class Curve:
    """Records curves as lines of JSON."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", buffering=1)
        self._start = time.time()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes a line."""
        line = {"step": step, "time_s": round(time.time() - self._start, 1), **values}
        self._file.write(json.dumps(line) + "\n")
        if "validation/rmse" in values:
            say(f"step {step:,}: validation RMSE {100 * values['validation/rmse']:.3f} %")

    def picture(self, step: int, name: str, image: NDArray[np.uint8]) -> None:
        """Leaves pictures out."""

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


if __name__ == "__main__":
    main()
