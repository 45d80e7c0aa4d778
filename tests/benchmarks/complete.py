"""Completion: the folded network beside the unfolded one and beside a large matrix product.

Error map and self-check of the released model, beside its completion.
"""

import copy
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from stem_complete import load_completer
from stem_complete.benchmark import durations
from stem_complete.data.bundled import example_micrographs
from stem_complete.data.formats.micrographs import read_micrograph
from stem_complete.data.scans import RasterScan
from stem_complete.models import build_network, fold_norms
from stem_complete.scan import archimedean

from . import Setting
from .report import Comparison, Goal


def run(setting: Setting) -> Iterator[Comparison]:
    """Forward passes of the generator on one image, and what the released model adds to one."""
    yield from _network(setting)
    yield from _released(setting)


def _network(setting: Setting) -> Iterator[Comparison]:
    device = setting.device
    preset, size = ("compact", 128) if setting.quick else ("paper", 512)
    unfolded = build_network(preset).generator.eval().to(device)
    folded = fold_norms(unfolded)
    x = torch.randn(1, 2, size, size, device=device)
    forms = {
        "unfolded": forward(unfolded, x),
        "folded": forward(folded, x),
        "folded, bf16": forward(folded, x, torch.bfloat16),
    }
    side = 256 if setting.quick else 8192 if device.type == "cuda" else 2048
    matrices = torch.randn(2, side, side, device=device)
    matrices_bf16 = matrices.bfloat16()
    products = {
        "folded": lambda: torch.mm(*matrices),
        "folded, bf16": lambda: torch.mm(*matrices_bf16),
    }
    cases = forms | {f"mm, {form}": product for form, product in products.items()}
    seconds = durations(cases, setting.rounds)
    what = f"{preset} generator, {size}x{size}, batch 1"
    fastest = min(products, key=lambda form: np.median(seconds[form]))
    expected = forms["folded"]()
    for form in products:
        error = (forms[form]().float() - expected).square().mean().sqrt() / expected.std()
        yield Comparison(
            f"{what}: {form}",
            "images/s",
            [1 / value for value in seconds[form]],
            "unfolded, float32",
            [1 / value for value in seconds["unfolded"]],
            Goal(">=", 1.5) if form == fastest else None,
            f"differs from folded float32 by {error:.2g} of its standard deviation",
        )
    num_flop = count_flop(folded, x)
    for form in products:
        yield Comparison(
            f"{what}: {form}, {num_flop / 1e9:.3g} GFLOP",
            "GFLOP/s",
            [num_flop / value / 1e9 for value in seconds[form]],
            f"torch.mm of two {side}x{side} matrices",
            [2 * side**3 / value / 1e9 for value in seconds[f"mm, {form}"]],
            note="Winograd's algorithm may do fewer operations than are counted",
        )


def _released(setting: Setting) -> Iterator[Comparison]:
    size = 64 if setting.quick else 512
    completer = load_completer(device=setting.device)
    image = read_micrograph(example_micrographs()[-1]).pixels[:size, :size].astype(np.float64)
    dwell = archimedean((size, size), "1/20").dwell_map().numpy()
    scan = RasterScan(np.where(dwell > 0, image, np.nan), dwell)
    without = "completion without error map"
    cases: dict[str, Callable[[], object]] = {
        without: lambda: completer.complete_scan(scan, error_map=False),
        "completion with error map": lambda: completer.complete_scan(scan),
        "self-check": lambda: completer.self_check(scan),
    }
    seconds = durations(cases, setting.rounds)
    for name in list(cases)[1:]:
        yield Comparison(
            f"released model, {size}x{size}: {name}", "s", seconds[name], without, seconds[without]
        )


def forward(
    network: nn.Module, x: Tensor, dtype: torch.dtype = torch.float32
) -> Callable[[], Tensor]:
    """Forward pass of a copy of `network`, channels last, as `Completer` does it."""
    network = copy.deepcopy(network).to(dtype).to(memory_format=torch.channels_last)
    x = x.to(dtype).contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def complete() -> Tensor:
        return network(x)

    return complete


def count_flop(network: nn.Module, x: Tensor) -> int:
    """Floating-point operations of a forward pass, two for each multiply-accumulate."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(x)
    return int(counter.get_total_flops())
