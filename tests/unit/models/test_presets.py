"""Presets: published sizes and costs, JSON, errors."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from stem_complete.models import (
    PRESETS,
    Architecture,
    TwoStageNetwork,
    WeightNormConv2d,
    build_network,
    running_norms,
)


def on_meta(preset: str, **options: object) -> TwoStageNetwork:
    with torch.device("meta"):
        return build_network(preset, **options)  # type: ignore[arg-type]


def gmac(network: nn.Module) -> dict[str, float]:
    """Multiply-accumulates [1e9] of one 512x512 forward pass, by name of module."""
    with FlopCounterMode(display=False) as counter:
        network(torch.empty(1, 2, 512, 512, device="meta"))
    counts = counter.get_flop_counts()
    return {name: sum(flops.values()) / 2e9 for name, flops in counts.items()}


def parts(network: TwoStageNetwork) -> tuple[nn.Module, nn.Module, nn.Module]:
    return network.generator.inner, network.trainer, network.generator.outer


def test_paper_has_the_published_numbers_of_weights() -> None:
    counts = [
        sum(p.numel() for p in part.parameters() if p.ndim == 4) for part in parts(on_meta("paper"))
    ]
    assert counts == [105_729_152, 37_440, 379_744]


def test_reference_code_has_the_published_numbers_of_parameters() -> None:
    network = on_meta("paper", bias=True, reference_layers=True)
    counts = [sum(p.numel() for p in part.parameters()) for part in parts(network)]
    assert counts == [105_762_112, 37_570, 381_218]


def test_paper_has_the_published_cost() -> None:
    cost = gmac(on_meta("paper"))
    assert cost["Global"] == pytest.approx(63.3, abs=0.05)
    assert cost["TwoStageNetwork.generator.inner"] == pytest.approx(33.7, abs=0.05)
    assert cost["TwoStageNetwork.trainer"] == pytest.approx(2.5, abs=0.05)
    assert cost["TwoStageNetwork.generator.outer"] == pytest.approx(27.1, abs=0.05)


def test_folding_costs_nothing() -> None:
    folded = build_network("compact", folded=True)
    assert gmac(folded)["Global"] == pytest.approx(gmac(on_meta("compact"))["Global"])


def test_compact_costs_a_fiftieth_of_paper() -> None:
    assert 1.0 < gmac(on_meta("compact"))["Global"] < 1.5


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_share_their_stride(preset: str) -> None:
    assert PRESETS[preset].stride == on_meta(preset).generator.stride == 32
    with pytest.raises(ValueError, match="multiples of 32"):
        on_meta(preset)(torch.empty(1, 2, 512, 500, device="meta"))


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"inner_widths": ()}, id="no-scale"),
        pytest.param({"inner_widths": (4, 0)}, id="no-width"),
        pytest.param({"outer_widths": (3, 4, 5)}, id="three-outer"),
        pytest.param({"outer_widths": (3, 5)}, id="widths-differ"),
        pytest.param({"outer_blocks": -1}, id="blocks"),
        pytest.param({"patch": 0}, id="patch"),
        pytest.param(
            {"inner_widths": (5, 6), "outer_widths": (3, 5), "spectral_blocks": 1}, id="odd"
        ),
    ],
)
def test_sizes_that_do_not_fit(change: dict[str, object]) -> None:
    sizes = {"inner_widths": (4, 6), "inner_blocks": 1, "outer_widths": (3, 4), "outer_blocks": 1}
    Architecture(**sizes)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"must|expected|need"):
        Architecture(**sizes | change)  # type: ignore[arg-type]


def test_without_mean_norm_all_layers_have_biases() -> None:
    sizes = replace(PRESETS["compact"], norm="none")
    network = build_network(sizes)
    assert not running_norms(network)
    layers = [layer for layer in network.modules() if isinstance(layer, WeightNormConv2d)]
    assert all(layer.bias is not None for layer in layers)
    assert running_norms(build_network("compact"))


def test_unknown_preset() -> None:
    with pytest.raises(ValueError, match="paper, compact"):
        build_network("papr")
