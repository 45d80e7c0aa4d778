"""Which choices of the recipe `any-dose` pay, at equal training time.

    ablation="python -m stem_complete.experiments.ablation --store released.zarr --output ablation"
    $ablation
    $ablation --minutes 10 --arms base no_skips --seeds 0 1
    $ablation --baselines
    $ablation --model results/any-dose/model
    $ablation --table

Each arm of `ablation.yaml` is trained on one thread for so many minutes, whatever its steps cost,
and then completes scans of the store's validation split, whose sources are not those trained on:
the evaluation protocol's spirals, and its random pixels at a dose of 100 electrons. Arms that are
done are kept: run it again for the rest. Other work on the machine costs an arm steps: compare
those within a table. What is reported is the mean RMSE against the blurred truth over micrographs,
each source counting the same; the table has its geometric mean over the coverages, for each
geometry and noise. docs/ablation.md has the results.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from operator import attrgetter, itemgetter
from pathlib import Path
from statistics import fmean, geometric_mean, stdev
from typing import Any

import numpy as np
import torch
import yaml

from stem_complete.config import Config, expand_sweep, load_config
from stem_complete.console import errors_in_one_line, say
from stem_complete.evaluation import (
    MODEL,
    KnownScan,
    Method,
    baseline_methods,
    chosen,
    evaluate,
    grouped,
    load_micrographs,
    markdown_table,
)
from stem_complete.experiments.release.store import source_of
from stem_complete.inference import Completer, Completion, load_artifact
from stem_complete.launch import launch
from stem_complete.scan import PartialScan, encode
from stem_complete.vocabulary import Encoding

ARMS = Path(__file__).with_suffix(".yaml")
FIRST: tuple[Encoding, ...] = ("splines", "waves")
CONDITIONS = chosen(["archimedean *", "random * dose 100"])
BASELINES = ("nearest", "normalised_convolution", "spline", "adaptive_spline")
MAX_PER_FIELD = 1

Errors = dict[str, float]
"""Mean RMSE [%] by condition, such as "archimedean 1/20 none"."""


def ablate(config: Config, output: Path) -> None:
    """Trains each run of a sweep that is not done, and writes its errors to `output`."""
    assert config.sweep is not None
    for run in expand_sweep(config):
        result = output / f"{run.name}.json"
        if result.exists():
            continue
        arm = run.name.rpartition("-seed")[0]
        with tempfile.TemporaryDirectory() as storage:
            (outcome,) = launch(run.model_copy(update={"storage": storage}), local=True)
            found = errors_of_model(Path(str(outcome.model)), run.data.store)
        found |= {"arm": arm, "changes": config.sweep.arms[arm], "steps": outcome.result.step}
        result.write_text(json.dumps(found, indent=2))
        say(f"{run.name}: {found['steps']:,} steps, {_summary(found)}")


def errors_of_model(model: Path, store: Path) -> dict[str, Any]:
    """Errors of a model, and the number of its weights."""
    artifact = load_artifact(model)
    completer = Completer(artifact)
    model_alone = {MODEL: lambda scan: completer.complete_scan(scan.partial, error_map=False)}
    found = _errors(model_alone, store)[MODEL]
    num_weights = sum(value.numel() for value in artifact.network.parameters())
    return {"num_weights": num_weights, "rmse_percent": found}


def errors_of_baselines(store: Path) -> dict[str, dict[str, Any]]:
    """Errors of classical completions, and of the first completions that networks correct."""

    def first(encoding: Encoding) -> Method:
        def complete(scan: KnownScan) -> Completion:
            arrays = scan.partial.intensity.astype(np.float32), scan.partial.dwell
            parts = (torch.from_numpy(array)[None, None] for array in arrays)
            return Completion(encode(PartialScan(*parts), encoding).offset[0, 0].numpy())

        return complete

    firsts = {f"first-{encoding}": first(encoding) for encoding in FIRST}
    methods = baseline_methods(BASELINES) | firsts
    found = _errors(methods, store)
    return {name: {"num_weights": 0, "rmse_percent": errors} for name, errors in found.items()}


def _errors(methods: Mapping[str, Method], store: Path) -> dict[str, Errors]:
    """Mean over sources of the mean RMSE, by method."""
    micrographs = load_micrographs(store, split="validation", max_per_field=MAX_PER_FIELD)
    rows = evaluate(micrographs, methods, CONDITIONS).whole().rows
    found: dict[str, Errors] = {name: {} for name in methods}
    by_condition = grouped(rows, attrgetter("method", "geometry", "coverage", "noise"))
    for (method, *condition), of_condition in by_condition.items():
        by_source = grouped(of_condition, lambda row: source_of(row.field))
        means = (fmean(100 * row.rmse for row in of_source) for of_source in by_source.values())
        found[method][" ".join(condition)] = fmean(means)
    return found


def table(output: Path) -> str:
    """Arms by mean error; each over its seeds, with the standard deviation between them."""
    files = sorted(output.glob("*.json"))
    found = [{"arm": file.stem} | json.loads(file.read_text()) for file in files]
    runs = grouped(found, itemgetter("arm"))
    kinds = list(_by_kind(next(iter(runs.values()))[0])) if runs else []
    rows = []
    for arm, of_arm in runs.items():
        steps = [run["steps"] for run in of_arm if "steps" in run]
        means = [[_by_kind(run)[kind] for run in of_arm] for kind in kinds]
        row = (
            arm,
            json.dumps(of_arm[0].get("changes", {})).replace('"', "").strip("{}"),
            str(len(of_arm)),
            f"{fmean(steps):,.0f}" if steps else "",
            f"{of_arm[0]['num_weights']:,}",
            *map(_with_spread, means),
        )
        rows.append((geometric_mean(map(fmean, means)), row))
    header = ("arm", "changes", "seeds", "steps", "weights", *kinds)
    return markdown_table(header, [row for _, row in sorted(rows)])


def _by_kind(found: Mapping[str, Any]) -> Errors:
    """Geometric mean over the coverages [%], so that each counts by its ratio, by the rest."""

    def kind(condition: str) -> str:
        geometry, _, noise = condition.split(maxsplit=2)
        return f"{geometry}, noise {noise}"

    errors = found["rmse_percent"]
    return {
        name: geometric_mean(map(errors.__getitem__, conditions))
        for name, conditions in grouped(errors, kind).items()
    }


def _summary(found: Mapping[str, Any]) -> str:
    return ", ".join(f"{kind} {error:.3f} %" for kind, error in _by_kind(found).items())


def _with_spread(values: Sequence[float]) -> str:
    spread = f" ± {stdev(values):.2f}" if len(values) > 1 else ""
    return f"{fmean(values):.2f}{spread}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store", type=Path, help="of stem_complete.experiments.release.store")
    parser.add_argument("--output", type=Path, required=True, help="folder of results")
    parser.add_argument("--minutes", type=float, default=6.0, help="wall time to train each arm")
    arms = yaml.safe_load(ARMS.read_text())["sweep"]["arms"]
    parser.add_argument("--arms", nargs="*", choices=arms, default=list(arms), metavar="ARM")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--baselines", action="store_true", help="classical completions instead")
    parser.add_argument("--model", type=Path, help="a trained model instead")
    parser.add_argument("--table", action="store_true", help="only print what there is")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    if options.table:
        print(table(options.output))
        return
    if options.store is None:
        parser.error("--store is needed to train and to evaluate")
    torch.set_num_threads(1)
    found: dict[str, dict[str, Any]] = {}
    if options.baselines:
        found = errors_of_baselines(options.store)
    elif options.model is not None:
        name = "-".join(options.model.resolve().parts[-2:])
        found = {name: errors_of_model(options.model, options.store)}
    else:
        changes = [
            f"data.store={options.store}",
            f"training.max_minutes={options.minutes}",
            f"sweep.seeds={options.seeds}",
            f"sweep.only={options.arms}",
        ]
        ablate(load_config(["any_dose", ARMS], changes), options.output)
    for name, errors in found.items():
        (options.output / f"{name}.json").write_text(json.dumps(errors, indent=2))
        say(f"{name}: {_summary(errors)}")


if __name__ == "__main__":
    with errors_in_one_line():
        main()
