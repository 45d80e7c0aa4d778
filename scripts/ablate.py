"""Which choices of the `any-dose` recipe pay, at equal training cost.

    python scripts/ablate.py --store released.zarr --output ablation --minutes 6
    python scripts/ablate.py --store released.zarr --output ablation --arms base no_skips
    python scripts/ablate.py --store released.zarr --output ablation --baselines
    python scripts/ablate.py --store released.zarr --output ablation --model results/model
    python scripts/ablate.py --output ablation --table

Each arm of `scripts/ablation.yaml` is trained on one thread until it has taken so many minutes of
CPU time, whatever its steps cost, and then completes the evaluation protocol's scans of the store's
validation split, whose sources are not those trained on. Arms that are done are kept: run it again
for the rest, or side by side with other arms. What is reported is the mean RMSE against the blurred
truth over micrographs, each source counting the same; the table has its geometric mean over the
coverages, for either geometry without and with noise. `scripts/ABLATION.md` is what came of it.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from stem_complete.config import (
    Config,
    NoiseConfig,
    NoNoiseConfig,
    ReferenceNoiseConfig,
    load_config,
)
from stem_complete.console import say
from stem_complete.distributed import WorkerContext
from stem_complete.evaluation import (
    PROTOCOL_BASELINES,
    Baseline,
    Condition,
    KnownScan,
    load_micrographs,
    markdown_table,
    rmse,
    simulate,
)
from stem_complete.inference import Artifact, Completer, load_artifact
from stem_complete.inference.export import export_checkpoint
from stem_complete.scan import GEOMETRIES, PartialScan, encode
from stem_complete.training import train
from stem_complete.training.stopping import StopRequest
from stem_complete.vocabulary import INTENSITY_RANGE, format_coverage

ARMS = yaml.safe_load(Path(__file__).with_name("ablation.yaml").read_text())
FIRST = ("splines", "waves")
COVERAGES = (1 / 10, 1 / 17.9, 1 / 20, 1 / 50, 1 / 87)  # and noises of the evaluation protocol
NOISES: dict[str, NoiseConfig] = {"none": NoNoiseConfig(), "reference": ReferenceNoiseConfig()}
KINDS = tuple(product(GEOMETRIES, NOISES))
MAX_PER_FIELD = 1


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store", type=Path, help="of scripts/released_store.py")
    parser.add_argument("--output", type=Path, required=True, help="folder of results")
    parser.add_argument("--minutes", type=float, default=6.0, help="CPU time to train each arm")
    parser.add_argument("--arms", nargs="*", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--baselines", action="store_true", help="classical and first completions instead"
    )
    parser.add_argument("--model", type=Path, help="a trained model instead, such as the released")
    parser.add_argument("--table", action="store_true", help="only print what there is")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    if options.table:
        say(_table(options.output))
        return
    if options.store is None:
        parser.error("--store is needed to train")
    torch.set_num_threads(1)
    if options.baselines:
        for method, errors in _baselines(options.store).items():
            found = {"steps": None, "num_weights": 0, "rmse_percent": errors}
            (options.output / f"{method}.json").write_text(json.dumps(found, indent=2))
            say(f"{method}: {_summary(found)}")
        return
    if options.model is not None:
        folder = options.model.resolve()
        found = _evaluate(load_artifact(str(folder)), options.store)
        (options.output / f"{folder.parent.name}-{folder.name}.json").write_text(
            json.dumps(found, indent=2)
        )
        say(f"{options.model}: {_summary(found)}")
        return
    for arm in options.arms:
        result = options.output / f"{arm}-seed{options.seed}.json"
        if result.exists():
            continue
        with tempfile.TemporaryDirectory() as storage:
            overrides = [
                f"data.store={options.store}",
                f"storage={storage}",
                f"training.seed={options.seed}",
                *(f"{key}={json.dumps(value)}" for key, value in ARMS[arm].items()),
            ]
            config = load_config(["any_dose"], overrides)
            found = _train_and_evaluate(config, 60 * options.minutes)
        result.write_text(json.dumps({"arm": arm, "changes": ARMS[arm], **found}, indent=2))
        say(f"{arm}: {found['steps']} steps, {_summary(found)}")


def _train_and_evaluate(config: Config, budget_s: float) -> dict[str, Any]:
    stop = StopRequest()
    started = time.process_time()

    def watch() -> None:
        while time.process_time() - started < budget_s:
            time.sleep(0.2)
        stop("its time is over")

    threading.Thread(target=watch, daemon=True).start()
    trained = train(config, WorkerContext(), stop=stop)
    used = time.process_time() - started
    with tempfile.TemporaryDirectory() as folder:
        model = export_checkpoint(
            config.run_folder, Path(folder) / "model", num_calibration_images=1
        )
        found = _evaluate(load_artifact(str(model)), Path(config.data.store))
    return found | {"steps": trained.step, "train_cpu_s": used}


def _evaluate(artifact: Artifact, store: Path) -> dict[str, Any]:
    completer = Completer(artifact)

    def complete(scan: KnownScan) -> NDArray[np.float32]:
        return completer.complete_scan(scan.partial, error_map=False).image

    return {
        "steps": None,
        "num_weights": sum(value.numel() for value in artifact.network.parameters()),
        "rmse_percent": {
            _cell(geometry, coverage, noise): _mean_error(
                complete, store, geometry, coverage, noise
            )
            for geometry, noise in KINDS
            for coverage in COVERAGES
        },
    }


def _baselines(store: Path) -> dict[str, dict[str, float]]:
    """Errors of the classical completions, and of those that networks correct."""
    found: dict[str, dict[str, float]] = {}
    for geometry, noise in KINDS:
        for coverage in COVERAGES:
            completions = {
                # One after the other, as each keeps its factorised matrix.
                **{name: partial(_complete_classically, name) for name in PROTOCOL_BASELINES},
                **{f"first-{name}": partial(_first_completion, name) for name in FIRST},
            }
            for name, complete in completions.items():
                cell = _cell(geometry, coverage, noise)
                error = _mean_error(complete, store, geometry, coverage, noise)
                found.setdefault(name, {})[cell] = error
    return found


def _complete_classically(method: str, scan: KnownScan) -> NDArray[np.float32]:
    image: NDArray[np.float32] = Baseline(method)(scan).image
    return image


def _first_completion(encoding: str, scan: KnownScan) -> NDArray[np.float32]:
    arrays = scan.partial.intensity.astype(np.float32), scan.partial.dwell
    measured = (torch.from_numpy(a)[None, None] for a in arrays)
    image: NDArray[np.float32] = encode(PartialScan(*measured), encoding).offset[0, 0].numpy()
    return image


def _mean_error(
    complete: Callable[[KnownScan], NDArray[np.float32]],
    store: Path,
    geometry: str,
    coverage: float,
    noise: str,
) -> float:
    """Mean over sources of the mean RMSE [%]."""
    errors: dict[str, list[float]] = {}
    micrographs = load_micrographs(store, split="validation", max_per_field=MAX_PER_FIELD)
    for scan in simulate(micrographs.crops, Condition(geometry, coverage, NOISES[noise])):
        source = Path(scan.field).name.split("_", 1)[0]
        error = rmse(scan.truth, complete(scan), intensity_range=INTENSITY_RANGE)
        errors.setdefault(source, []).append(100 * error)
    return float(np.mean([np.mean(of_source) for of_source in errors.values()]))


def _cell(geometry: str, coverage: float, noise: str) -> str:
    return f"{geometry} {format_coverage(coverage)} {noise}"


def _summary(found: dict[str, Any]) -> str:
    return ", ".join(f"{' '.join(kind)} {_geometric_mean(found, *kind):.3f}" for kind in KINDS)


def _table(folder: Path) -> str:
    """Arms by mean error; each over its seeds, with the standard deviation between them."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for file in sorted(folder.glob("*.json")):
        found = json.loads(file.read_text())
        runs.setdefault(found.get("arm", file.stem), []).append(found)
    rows = []
    for arm, of_arm in runs.items():
        changes = of_arm[0].get("changes", {})
        steps = [found["steps"] for found in of_arm if found["steps"]]
        means = [np.array([_geometric_mean(found, *kind) for found in of_arm]) for kind in KINDS]
        row = (
            arm,
            ", ".join(f"{key}: {json.dumps(value)}" for key, value in changes.items()),
            str(len(of_arm)),
            f"{np.mean(steps):,.0f}" if steps else "",
            f"{of_arm[0]['num_weights']:,}",
            *(_with_spread(mean) for mean in means),
        )
        rows.append((np.log(means).mean(), row))
    errors = [f"{geometry}, noise {noise}" for geometry, noise in KINDS]
    header = ("arm", "changes", "seeds", "steps", "weights", *errors)
    return markdown_table(header, [row for _, row in sorted(rows)])


def _geometric_mean(found: dict[str, Any], geometry: str, noise: str) -> float:
    """Over the coverages [%], so that each counts by its ratio."""
    errors = [found["rmse_percent"][_cell(geometry, coverage, noise)] for coverage in COVERAGES]
    return math.exp(np.log(errors).mean())


def _with_spread(values: NDArray[np.float64]) -> str:
    spread = f" ± {values.std(ddof=1):.2f}" if len(values) > 1 else ""
    return f"{values.mean():.2f}{spread}"


if __name__ == "__main__":
    main()
