"""Completion on the CPU: the folded network beside the unfolded one, and how well it computes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from stem_complete.benchmarks.measure import Comparison, Effort, Goal, durations
from stem_complete.console import waiting
from stem_complete.models import build_network, fold

Forward = Callable[[], object]


def run(effort: Effort, _: Path) -> Iterator[Comparison]:
    """Forward passes of the generator on one image, one for each form it can take."""
    preset, size, matrix_side = ("compact", 128, 256) if effort.quick else ("paper", 512, 2048)
    network = f"{preset} generator, {size}x{size}, batch 1"
    unfolded = build_network(preset).generator.eval()
    folded = fold(unfolded)
    x = torch.randn(1, 2, size, size)

    forms = {
        "unfolded": forward(unfolded, x, torch.channels_last),
        "unfolded, contiguous": forward(unfolded, x, torch.contiguous_format),
        "folded": forward(folded, x, torch.channels_last),
        "folded, contiguous": forward(folded, x, torch.contiguous_format),
        "folded, bf16": forward(folded, x, torch.channels_last, bf16=True),
    }
    # Compiling takes longer than a quick look may.
    compiled = "too slow for a quick look" if effort.quick else compiled_forward(folded, x)
    if not isinstance(compiled, str):
        forms["folded, compiled"] = compiled
    left, right = torch.randn(2, matrix_side, matrix_side)
    seconds = durations(forms | {"torch.mm": lambda: torch.mm(left, right)}, effort.rounds)
    rates = {name: [1 / value for value in seconds[name]] for name in forms}

    def beside(form: str, other: str, goal: Goal | None = None, note: str = "") -> Comparison:
        return Comparison(
            f"{network}: {form}", "images/s", rates[form], other, rates[other], goal, note
        )

    candidates = ["folded", "folded, contiguous", "folded, compiled"]
    best = min(
        (name for name in candidates if name in forms), key=lambda name: np.median(seconds[name])
    )
    yield beside(
        best, "unfolded", Goal(">=", 1.5), "the fastest folded form in float32; channels_last"
    )
    yield beside("folded", "unfolded", note="as `complete` runs it; channels_last")
    yield beside("folded, contiguous", "unfolded, contiguous", note="torch's default memory format")
    yield beside("folded, bf16", "folded", note="autocast; weights are cast in every pass")
    if isinstance(compiled, str):
        yield Comparison(f"{network}: folded, compiled", "images/s", [], note=compiled)
    else:
        yield beside("folded, compiled", "folded", note="torch.compile, weights frozen")
    yield Comparison(
        f"{network}: folded, int8",
        "images/s",
        [],
        note="not implemented: torch.ao's dynamic quantisation knows no convolutions, and its "
        "static one needs a calibration that models do not carry",
    )

    # What the best form reaches of the arithmetic that a large matrix product gets.
    num_flop = count_flop(folded, x)
    yield Comparison(
        f"{network}: {best}, {num_flop / 1e9:.3g} GFLOP",
        "GFLOP/s",
        _gigaflops(num_flop, seconds[best]),
        f"torch.mm of two {matrix_side}x{matrix_side} matrices",
        _gigaflops(2 * matrix_side**3, seconds["torch.mm"]),
        note="float32; oneDNN may do fewer operations than are counted, by Winograd's algorithm",
    )


def forward(
    network: nn.Module, x: Tensor, memory_format: torch.memory_format, *, bf16: bool = False
) -> Forward:
    """Forward pass of a copy of `network` in that memory format."""
    network = copy.deepcopy(network)
    network.to(memory_format=memory_format)  # type: ignore[call-overload]
    x = x.contiguous(memory_format=memory_format)

    def complete() -> Tensor:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            output: Tensor = network(x)
            return output

    return complete


def compiled_forward(network: nn.Module, x: Tensor) -> Forward | str:
    """Forward pass of `network`, compiled with its weights as constants; or why there is none."""
    x = x.contiguous(memory_format=torch.channels_last)
    # Frozen weights are brought into oneDNN's own layout once, and not in every pass.
    compiled = torch.compile(network, options={"freezing": True})

    def complete() -> Tensor:
        with torch.no_grad():
            output: Tensor = compiled(x)
            return output

    try:
        with waiting("compiling the network"):
            complete()
    except RuntimeError as error:
        return f"torch.compile does not work here: {str(error).splitlines()[0]}"
    return complete


def count_flop(network: nn.Module, x: Tensor) -> int:
    """Floating-point operations of a forward pass, two for each multiply-accumulate."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(x)
    return int(counter.get_total_flops())


def _gigaflops(num_flop: int, seconds: Sequence[float]) -> list[float]:
    return [num_flop / value / 1e9 for value in seconds]
