from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from stem_complete.inference.tiling import apply_padded, apply_tiled, check_tiles


def _smoothing(x: torch.Tensor) -> torch.Tensor:
    """Any network with a reach of 8 px; like all of ours it sees zeros beyond the border."""
    return F.avg_pool2d(x[:, :1] + x[:, 1:], 17, stride=1, padding=8)


@pytest.mark.parametrize("shape", [(32, 32), (33, 63), (96, 128), (100, 70)])
def test_padding_gives_the_network_its_stride_and_the_caller_the_image(shape):
    seen = []

    def network(x: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return x[:, :1]

    x = torch.randn(2, 2, *shape)
    assert torch.equal(apply_padded(network, x, 32), x[:, :1])
    assert all(side % 32 == 0 for side in seen[0].shape[-2:])
    height, width = shape
    # A mirror image: the pixels beyond the border are those before it.
    if height % 32 > 1:
        torch.testing.assert_close(seen[0][..., height, :width], x[..., height - 2, :])


@pytest.mark.parametrize("shape", [(200, 300), (257, 130), (64, 400), (40, 500)])
def test_tiles_cover_every_pixel_with_weights_that_add_up_to_one(shape):
    x = torch.randn(1, 2, *shape)
    y = apply_tiled(lambda tile: tile[:, :1], x, stride=32, tile_px=128, overlap_px=64)
    torch.testing.assert_close(y, x[:, :1])


def test_tiles_make_no_difference_where_their_borders_do_not_reach():
    x = torch.randn(1, 2, 320, 384)
    whole = apply_tiled(_smoothing, x, stride=32, tile_px=512, overlap_px=64)
    tiled = apply_tiled(_smoothing, x, stride=32, tile_px=192, overlap_px=96)
    difference = (tiled - whole).abs()
    # The false zeros beyond a tile's border have little weight where another tile knows better.
    assert difference.max() < 0.02
    assert difference.mean() < 1e-4
    # And none in the middle of a tile.
    assert difference[..., 16:80, 16:80].max() < 1e-6


def test_tiles_blend_without_seams():
    """A network that is off by a constant per tile leaves no step as large as that constant."""
    tiles = iter(range(100))
    x = torch.zeros(1, 2, 64, 640)
    y = apply_tiled(
        lambda tile: torch.full_like(tile[:, :1], next(tiles)),
        x,
        stride=32,
        tile_px=256,
        overlap_px=128,
    )
    assert y.max() > 2
    assert y.diff(dim=-1).abs().max() < 0.04


@pytest.mark.parametrize(
    ("tile_px", "overlap_px"), [(100, 32), (128, 20), (128, 128), (128, 0), (64, 96)]
)
def test_tiles_that_do_not_fit_are_refused(tile_px, overlap_px):
    with pytest.raises(ValueError, match="multiples of 32"):
        check_tiles(32, tile_px, overlap_px)
