"""Inner, outer and two-stage generators."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stem_complete.models import (
    Architecture,
    DetailedInnerGenerator,
    InnerGenerator,
    OuterGenerator,
    ResidualBlock,
    SpectralBlock,
    TwoStageGenerator,
    WeightNormConv2d,
    build_network,
)


def images(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def two_stage(align_corners: bool = False) -> TwoStageGenerator:
    torch.manual_seed(0)
    inner = InnerGenerator((4, 6, 8), num_blocks=1)
    return TwoStageGenerator(
        inner, OuterGenerator((3, 4), num_blocks=1), align_corners=align_corners
    )


def test_residual_block_adds_three_layers_to_its_input_and_nothing_after() -> None:
    block, x = ResidualBlock(4), images(2, 4, 8, 8)
    y = x
    for layer in block.layers:
        assert isinstance(layer, WeightNormConv2d)
        y = layer(y)
    assert len(block.layers) == 3
    torch.testing.assert_close(block(x), x + y)
    assert (block(x) < 0).any()


@pytest.mark.parametrize(("b", "h", "w"), [(1, 16, 16), (3, 8, 20)], ids=["square", "batch"])
def test_inner_features_have_the_size_of_the_input(b: int, h: int, w: int) -> None:
    assert InnerGenerator((4, 6, 8), 1)(images(b, 2, h, w)).shape == (b, 4, h, w)


@pytest.mark.parametrize(("b", "h", "w"), [(1, 16, 16), (3, 8, 24)], ids=["square", "batch"])
def test_completion_has_the_size_of_the_scan(b: int, h: int, w: int) -> None:
    assert two_stage()(images(b, 2, h, w)).shape == (b, 1, h, w)


def test_images_of_a_batch_do_not_see_each_other() -> None:
    generator, x = two_stage(), images(3, 2, 16, 24)
    alone = torch.cat([generator(image[None]) for image in x])
    torch.testing.assert_close(generator(x), alone, atol=1e-5, rtol=1e-4)


def test_channels_last_gives_the_same() -> None:
    generator, x = two_stage(), images(2, 2, 16, 24)
    expected = generator(x)
    fast = generator.to(memory_format=torch.channels_last)
    found = fast(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_inner_features_reach_the_completion_by_addition() -> None:
    outer, x = OuterGenerator((3, 4), 1), images(1, 2, 16, 16)
    features = images(1, 4, 8, 8)
    steps = nn.Sequential(outer.blocks, outer.up, outer.refine, outer.image)
    torch.testing.assert_close(outer(x, features), steps(outer.down(outer.entry(x)) + features))


@pytest.mark.parametrize("align_corners", [False, True])
def test_the_inner_generator_sees_the_scan_bilinearly_halved(align_corners: bool) -> None:
    generator, x = two_stage(align_corners), images(2, 2, 16, 24)
    half = F.interpolate(x, size=(8, 12), mode="bilinear", align_corners=align_corners)
    torch.testing.assert_close(generator.inner_features(x), generator.inner(half))


def test_last_layer_is_neither_mean_normalised_nor_rectified() -> None:
    last = two_stage().outer.image
    assert last.mean_norm is None
    assert last.leaky_slope is None
    assert last.g is not None
    others = [m for m in two_stage().modules() if isinstance(m, WeightNormConv2d)]
    assert sum(layer.mean_norm is None for layer in others) == 1


def test_reference_layers() -> None:
    architecture = Architecture((4, 6, 8), 1, (3, 4), 1)
    inner = build_network(architecture, reference_layers=True).generator.inner
    assert inner.entry.g is None
    assert all(layer.norm_dims == (1, 2, 3) for layer in inner.up.children())
    assert all(layer.norm_dims == (0, 2, 3) for layer in InnerGenerator((4, 6), 1).up.children())


def test_patches_are_channels_to_both_generators() -> None:
    torch.manual_seed(0)
    inner = InnerGenerator((4, 6), 1, in_channels=12)
    outer = OuterGenerator((3, 4), 1, in_channels=12, out_channels=4)
    generator, x = TwoStageGenerator(inner, outer, patch=2), images(2, 3, 16, 24)
    assert (generator.in_channels, generator.stride) == (3, 8)
    features = inner(F.pixel_unshuffle(F.avg_pool2d(x, 2), 2))
    assert features.shape == (2, 4, 4, 6)
    expected = F.pixel_shuffle(outer(F.pixel_unshuffle(x, 2), features), 2)
    assert expected.shape == (2, 1, 16, 24)
    torch.testing.assert_close(generator(x), expected)


@pytest.mark.parametrize("skips", [False, True])
def test_skips_add_the_features_of_the_way_down(skips: bool) -> None:
    torch.manual_seed(0)
    inner = DetailedInnerGenerator((4, 6, 8), 1, num_fine_blocks=1, skips=skips)
    x = images(1, 2, 16, 16)
    fine = inner.entry(x)
    middle = inner.down[0](fine)
    up = inner.up[0](inner.blocks(inner.down[1](middle)))
    up = inner.up[1](inner.fine_blocks[0](up + middle if skips else up))
    torch.testing.assert_close(inner(x), inner.fine_blocks[1](up + fine if skips else up))


def test_spectral_blocks_see_the_whole_image_and_move_with_it() -> None:
    torch.manual_seed(0)
    block, x = SpectralBlock(4), images(1, 4, 16, 24)
    y = block(x)
    shifted = block(x.roll((3, 5), (2, 3)))
    torch.testing.assert_close(shifted, y.roll((3, 5), (2, 3)), atol=1e-5, rtol=1e-4)
    changed = x.clone()
    changed[..., 0, 0] += 1
    assert ((block(changed) - y).abs()[..., 8:, 12:] > 1e-6).any()


def test_spectral_blocks_work_in_bfloat16() -> None:
    torch.manual_seed(0)
    block, x = SpectralBlock(4).eval(), images(1, 4, 16, 24)
    expected = block(x)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = block(x)
    halved = block.to(torch.bfloat16)(x.to(torch.bfloat16))
    for found in (mixed, halved):
        assert (found.float() - expected).abs().max() < 0.1 * expected.abs().max()


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((1, 2, 16, 20), id="width"),
        pytest.param((1, 2, 12, 16), id="height"),
        pytest.param((1, 1, 16, 16), id="channels"),
        pytest.param((2, 16, 16), id="dimensions"),
        pytest.param((1, 2, 0, 16), id="empty"),
    ],
)
def test_shapes_that_do_not_fit(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"multiples of 8, got \["):
        two_stage()(images(*shape))


def test_generators_alone_check_their_shapes() -> None:
    with pytest.raises(ValueError, match="multiples of 4"):
        InnerGenerator((4, 6, 8), 1)(images(1, 2, 8, 10))
    with pytest.raises(ValueError, match="multiples of 2"):
        OuterGenerator((3, 4), 1)(images(1, 2, 8, 9), images(1, 4, 4, 4))


def test_widths_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="at least one scale"):
        InnerGenerator(())
    with pytest.raises(ValueError, match="5 features cannot be added"):
        TwoStageGenerator(InnerGenerator((5, 6), 1), OuterGenerator((3, 4), 1))
