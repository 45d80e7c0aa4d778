"""Networks in tiles do what they do on whole images."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from stem_complete.inference.tiling import apply_tiled, check_tiles, run_network
from stem_complete.models import Architecture, build_network, fold_norms


def _smoothing(x: torch.Tensor) -> torch.Tensor:
    """Any network with a reach of 8 px; like all of ours it sees zeros beyond the border."""
    return F.avg_pool2d(x[:, :1] + x[:, 1:], 17, stride=1, padding=8)


def _of(x: torch.Tensor, network=lambda tile: tile[:, :1]):
    return lambda rows, columns: network(x[..., rows, columns])


class _Seeing(nn.Module):
    """A network that keeps what it sees."""

    stride, whole_image_blocks = 32, ()

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.seen = []

    def forward(self, x):
        self.seen.append(x)
        return x[:, :1]


@pytest.mark.parametrize("shape", [(32, 32), (33, 63), (96, 128), (100, 70), (40, 500)])
def test_padding_gives_the_network_its_stride_and_the_caller_the_image(shape):
    network, x = _Seeing(), torch.randn(2, 2, *shape)
    y = run_network(network, _of(x, lambda tile: tile), shape, tile_px=128, overlap_px=64)
    torch.testing.assert_close(y, x[:, :1])
    assert all(side % 32 == 0 for tile in network.seen for side in tile.shape[-2:])
    height, width = shape
    # A mirror image: the pixels beyond the border are those before it.
    if height % 32 > 1 and width <= 128:
        torch.testing.assert_close(network.seen[0][..., height, :width], x[..., height - 2, :])


@pytest.mark.parametrize("shape", [(200, 300), (257, 130), (64, 400), (40, 500)])
def test_tiles_cover_every_pixel_with_weights_that_add_up_to_one(shape):
    x = torch.randn(1, 2, *shape)
    y = apply_tiled(_of(x), shape, tile_px=128, overlap_px=64)
    torch.testing.assert_close(y, x[:, :1])


def test_tiles_of_smaller_images_cover_these():
    x = torch.randn(1, 2, 256, 384)
    y = apply_tiled(
        _of(x, lambda tile: F.avg_pool2d(tile, 4)), (256, 384), tile_px=128, overlap_px=64, scale=4
    )
    torch.testing.assert_close(y, F.avg_pool2d(x, 4))


def test_tiles_make_no_difference_where_their_borders_do_not_reach():
    x = torch.randn(1, 2, 320, 384)
    whole = apply_tiled(_of(x, _smoothing), (320, 384), tile_px=512, overlap_px=64)
    tiled = apply_tiled(_of(x, _smoothing), (320, 384), tile_px=192, overlap_px=96)
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
        _of(x, lambda tile: torch.full_like(tile[:, :1], next(tiles))),
        (64, 640),
        tile_px=256,
        overlap_px=128,
    )
    assert y.max() > 2
    assert y.diff(dim=-1).abs().max() < 0.04


def test_the_spectrum_is_that_of_the_whole_image_in_every_tile():
    """A spectral block finds a lattice by its peak, which grows with the image it sees."""
    torch.manual_seed(0)
    sizes = Architecture((8, 8), 0, (8, 8), 0, patch=2, spectral_blocks=1, norm="none")
    network = fold_norms(build_network(sizes).generator)
    y, x = torch.arange(256.0)[:, None], torch.arange(320.0)
    image = torch.cos(0.5 * x + 0.2 * y) + 0.1 * torch.randn(1, 2, 256, 320)
    whole, tiled, apart = (
        run_network(each, _of(image, lambda tile: tile), (256, 320), tile_px=side, overlap_px=64)
        for each, side in ((network, 512), (network, 128), (_Local(network), 128))
    )
    assert (tiled - whole).abs().mean() < 0.02 * whole.std()
    assert (apart - whole).abs().mean() > 3 * (tiled - whole).abs().mean()


class _Local(nn.Module):
    """A network each of whose tiles sees its own spectrum."""

    whole_image_blocks = ()

    def __init__(self, network):
        super().__init__()
        self.network, self.stride = network, network.stride

    def forward(self, x):
        return self.network(x)


@pytest.mark.parametrize(
    ("tile_px", "overlap_px"), [(100, 32), (128, 20), (128, 128), (128, 0), (64, 96)]
)
def test_tiles_that_do_not_fit_are_refused(tile_px, overlap_px):
    with pytest.raises(ValueError, match="multiples of 32"):
        check_tiles(32, tile_px, overlap_px)
