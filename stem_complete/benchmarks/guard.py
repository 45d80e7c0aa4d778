"""What keeps training safe and its curves complete, beside a step that does only the training."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from stem_complete.benchmarks.devices import best_device, named, waited
from stem_complete.benchmarks.measure import Comparison, Effort, Goal, durations
from stem_complete.benchmarks.steps import problem, training_step, unguarded_step


def run(effort: Effort, _: Path) -> Iterator[Comparison]:
    """Non-finite guard, replica digest, curves and weight average; fused Adam either way."""
    device = best_device()
    changes = ("training.cuda_graph=true",) if device.type == "cuda" else ()
    average = "training.weight_average=0.999"
    cases = {
        "all": training_step(problem(*changes, average, quick=effort.quick, device=device)),
        "no average": training_step(problem(*changes, quick=effort.quick, device=device)),
        "none": unguarded_step(problem(*changes, quick=effort.quick, device=device)),
    }
    seconds = durations({name: waited(case, device) for name, case in cases.items()}, effort.rounds)
    milliseconds = {name: [1e3 * value for value in found] for name, found in seconds.items()}
    network = "compact network, 128x128" if effort.quick else "paper's network, 512x512"
    without = f"{network}, batch 1, on the {named(device)}, without them"
    yield Comparison(
        "step with guard, digest, curves and weight average",
        "ms",
        milliseconds["all"],
        without,
        milliseconds["none"],
        Goal("<=", 1.03),
        "the goal is for GPUs",
    )
    yield Comparison(
        "the same without the average",
        "ms",
        milliseconds["no average"],
        without,
        milliseconds["none"],
    )
