"""Completion: the folded network beside the unfolded one, in every form that it can take."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from stem_complete.benchmarks.devices import NO_GPU, devices, named, waited
from stem_complete.benchmarks.measure import Comparison, Effort, Goal, durations
from stem_complete.console import waiting
from stem_complete.models import build_network, fold_norms
from stem_complete.training.cuda_graph import CudaGraph

Forward = Callable[[], Tensor]


def run(effort: Effort, _: Path) -> Iterator[Comparison]:
    """Forward passes of the generator on one image, on each device."""
    for device in devices():
        yield from _on(device, effort)
    if not torch.cuda.is_available():
        yield Comparison("completion on the GPU", "images/s", [], note=NO_GPU)


def _on(device: torch.device, effort: Effort) -> Iterator[Comparison]:
    preset, size = ("compact", 128) if effort.quick else ("paper", 512)
    what = f"{preset} generator, {size}x{size}, batch 1, on the {named(device)}"
    unfolded = build_network(preset).generator.eval().to(device)
    folded = fold_norms(unfolded)
    x = torch.randn(1, 2, size, size, device=device)

    forms = {
        "unfolded": forward(unfolded, x),
        "unfolded, contiguous": forward(unfolded, x, torch.contiguous_format),
        "folded": forward(folded, x),
        "folded, contiguous": forward(folded, x, torch.contiguous_format),
        "folded, bf16": forward(folded, x, dtype=torch.bfloat16),
    }
    failed = {}
    # Compiling takes longer than a quick look may.
    compiled = "too slow for a quick look" if effort.quick else compiled_forward(folded, x)
    if isinstance(compiled, str):
        failed["folded, compiled"] = compiled
    else:
        forms["folded, compiled"] = compiled
    if device.type == "cuda":
        forms["folded, bf16, CUDA graph"] = graphed_forward(folded, x)
    else:
        forms["folded, int8"] = int8_forward(folded, x)

    side = _matrix_side(device, effort)
    matrices = {
        dtype: torch.randn(2, side, side, device=device).to(dtype)
        for dtype in (torch.float32, torch.bfloat16)
    }
    products = {str(dtype): lambda m=m: torch.mm(*m) for dtype, m in matrices.items()}
    seconds = durations(
        {name: waited(case, device) for name, case in (forms | products).items()}, effort.rounds
    )
    rates = {name: [1 / value for value in seconds[name]] for name in forms}

    def beside(form: str, other: str, note: str, goal: Goal | None = None) -> Comparison:
        return Comparison(
            f"{what}: {form}", "images/s", rates[form], other, rates[other], goal, note
        )

    offered = ("folded", "folded, bf16")
    best = min(offered, key=lambda name: np.median(seconds[name]))
    goal = Goal(">=", 1.5)
    yield beside(best, "unfolded", "the fastest form that `complete --precision` offers", goal)
    yield beside("folded", "unfolded", "float32: the numbers are the same but for rounding")
    yield beside("folded", "folded, contiguous", "channels last, beside torch's default format")
    expected = forms["folded"]()
    for form, other, note in (
        ("folded, bf16", "folded", "weights are bf16 too"),
        ("folded, compiled", "folded", "torch.compile, weights frozen"),
        ("folded, bf16, CUDA graph", "folded, bf16", "one launch instead of one for each kernel"),
        ("folded, int8", "folded, bf16", "torch.ao, which torch gives up: not in the product"),
    ):
        if form in forms:
            error = _relative_error(forms[form](), expected)
            yield beside(
                form, other, f"{note}; differs from float32 by {error:.2g} of its deviation"
            )
        elif form in failed:
            yield Comparison(f"{what}: {form}", "images/s", [], note=failed[form])

    # What a form reaches of the arithmetic that a large matrix product gets.
    num_flop = count_flop(folded, x)
    for form, dtype in (("folded", torch.float32), ("folded, bf16", torch.bfloat16)):
        yield Comparison(
            f"{what}: {form}, {num_flop / 1e9:.3g} GFLOP",
            "GFLOP/s",
            _gigaflops(num_flop, seconds[form]),
            f"torch.mm of two {side}x{side} {str(dtype).removeprefix('torch.')} matrices",
            _gigaflops(2 * side**3, seconds[str(dtype)]),
            note="oneDNN may do fewer operations than are counted, by Winograd's algorithm"
            if device.type == "cpu"
            else "",
        )


def forward(
    network: nn.Module,
    x: Tensor,
    memory_format: torch.memory_format = torch.channels_last,
    dtype: torch.dtype = torch.float32,
) -> Forward:
    """Forward pass of a copy of `network` in that memory format and precision."""
    network = copy.deepcopy(network).to(dtype)
    network.to(memory_format=memory_format)  # type: ignore[call-overload]
    x = x.to(dtype).contiguous(memory_format=memory_format)

    def complete() -> Tensor:
        with torch.inference_mode():
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


def graphed_forward(network: nn.Module, x: Tensor) -> Forward:
    """Forward pass in bf16 as one CUDA graph."""
    network = copy.deepcopy(network).to(torch.bfloat16)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = x.to(torch.bfloat16).contiguous(memory_format=torch.channels_last)

    def complete(x: Tensor) -> tuple[Tensor]:
        with torch.no_grad():
            return (network(x),)

    graph = CudaGraph(complete)
    return lambda: graph(x)[0]


def int8_forward(network: nn.Module, x: Tensor) -> Forward:
    """Forward pass with int8 convolutions, but for transposed ones, the first and the last.

    Weights are quantised per output channel, activations per tensor with the range that they have
    for `x` itself. Between convolutions numbers are float32.
    """
    network = copy.deepcopy(network)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = x.contiguous(memory_format=torch.channels_last)
    names = [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d) and min(module.in_channels, module.out_channels) > 2
    ]
    inputs: dict[str, Tensor] = {}

    def keep_input(name: str) -> Callable[[nn.Module, tuple[Tensor]], None]:
        return lambda _, given: inputs.update({name: given[0].clone()})

    hooks = [
        network.get_submodule(name).register_forward_pre_hook(keep_input(name)) for name in names
    ]
    with torch.inference_mode(), warnings.catch_warnings():
        # Which says that they will be removed: why this is a benchmark and no more.
        warnings.filterwarnings("ignore", "torch.quantize_per_tensor", UserWarning)
        network(x)
        for hook in hooks:
            hook.remove()
        for name in names:
            convolution = network.get_submodule(name)
            assert isinstance(convolution, nn.Conv2d)
            parent, _, child = name.rpartition(".")
            quantised = _Int8Convolution(convolution, inputs[name])
            setattr(network.get_submodule(parent), child, quantised)

    def complete() -> Tensor:
        with torch.inference_mode():
            output: Tensor = network(x)
            return output

    return complete


class _Int8Convolution(nn.Module):
    """A convolution in int8 between float32 tensors.

    Args:
        convolution: To be replaced.
        x: An input of it, whose range will be that of all inputs.
    """

    def __init__(self, convolution: nn.Conv2d, x: Tensor) -> None:
        super().__init__()
        self.input_scale, self.input_zero = _affine(x)
        self.scale, self.zero = _affine(convolution(x))
        weight = convolution.weight.detach()
        scales = weight.abs().amax((1, 2, 3)).clamp(min=1e-12) / 127
        quantised = torch.quantize_per_channel(
            weight, scales, torch.zeros(len(scales), dtype=torch.int64), 0, torch.qint8
        )
        self.packed = torch.ops.quantized.conv2d_prepack(
            quantised,
            None if convolution.bias is None else convolution.bias.detach(),
            list(convolution.stride),
            [int(side) for side in convolution.padding],
            list(convolution.dilation),
            convolution.groups,
        )

    def forward(self, x: Tensor) -> Tensor:
        quantised = torch.quantize_per_tensor(x, self.input_scale, self.input_zero, torch.quint8)
        output = torch.ops.quantized.conv2d(quantised, self.packed, self.scale, self.zero)
        result: Tensor = output.dequantize()
        return result


def _affine(x: Tensor) -> tuple[float, int]:
    """Scale and zero point with which [0, 255] covers the values of `x` and 0."""
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    scale = max(high - low, 1e-12) / 255
    return scale, round(-low / scale)


def count_flop(network: nn.Module, x: Tensor) -> int:
    """Floating-point operations of a forward pass, two for each multiply-accumulate."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(x)
    return int(counter.get_total_flops())


def _matrix_side(device: torch.device, effort: Effort) -> int:
    if effort.quick:
        return 256
    return 8192 if device.type == "cuda" else 2048


def _relative_error(found: Tensor, expected: Tensor) -> float:
    """Root mean square difference in standard deviations of `expected`."""
    difference = found.float() - expected.float()
    return float(difference.square().mean().sqrt() / expected.float().std())


def _gigaflops(num_flop: int, seconds: Sequence[float]) -> list[float]:
    return [num_flop / value / 1e9 for value in seconds]
