"""One training run through many faults at random points, and what each one cost.

    scripts/chaos [--kills N] [--steps N] [--seed N] [--json FILE]

Workers, Ray Train's controller, whole nodes and the driver are killed, terminated, drained or
interrupted on a real Ray cluster of two nodes. The run must end by itself, bit by bit in the
weights that it ends in undisturbed, and in one MLflow run that has each step once.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

from stores import small_store

from faults.injection import Cost, inject, plan
from faults.nodes import LocalCluster
from faults.training import (
    Training,
    differing,
    recorded_steps,
    short_run,
    train_undisturbed,
)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30, help="number of faults")
    parser.add_argument("--steps", type=int, default=3000, help="length of the run")
    parser.add_argument("--seed", type=int, default=0, help="of the faults and their places")
    parser.add_argument("--json", type=Path, help="also write the costs to this file")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that all is cleaned up

    started = time.monotonic()
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = small_store(folder / "store.zarr")
        runs = [
            short_run(store, folder / storage, f"training.steps={options.steps}")
            for storage in ("disturbed", "undisturbed")
        ]
        costs: list[Cost] = []
        print("| step | fault | steps repeated | recovery [s] |\n|---:|---|---:|---:|", flush=True)
        with LocalCluster(2) as cluster, Training(runs[0], folder, cluster.address) as training:
            training.start()
            for fault, step in plan(chance, options.kills, options.steps):
                training.wait_for_step(step)
                time.sleep(chance.random())  # into a step, a checkpoint or a validation
                cost = inject(fault, cluster, training, chance)
                costs.append(cost)
                print(
                    f"| {cost.step} | {fault} | {cost.steps_lost} | {cost.recovery_s:.1f} |",
                    flush=True,
                )
            if training.wait():
                sys.exit(f"error: training failed\n{training.printed()[-3000:]}")
        train_undisturbed(runs[1], folder)
        others = differing(*(run.run_folder for run in runs))
        missing = set(range(1, options.steps + 1)) ^ set(steps := recorded_steps(runs[0]))
        if others or missing or len(set(steps)) < len(steps):
            sys.exit(f"error: other tensors {others}; MLflow has other steps: {sorted(missing)}")
    if options.json:
        options.json.write_text(json.dumps([cost._asdict() for cost in costs], indent=2))
    lost, waited = sum(c.steps_lost for c in costs), sum(c.recovery_s for c in costs)
    print(
        f"\n{len(costs)} faults in {time.monotonic() - started:.0f} s: {lost} of {options.steps} "
        f"steps repeated, {waited / len(costs):.1f} s to recover on average. The final weights are "
        "bit by bit those of the undisturbed run; MLflow has one run, and each step once."
    )


if __name__ == "__main__":
    main()
