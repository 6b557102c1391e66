"""Tiles give what the whole image gives, as far as the halo reaches."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import conv2d, interpolate

from t2ibench.samplers.tiles import tiled

REACH = 3


def blurred(low):
    """Twice the side, each pixel of a square of 7 x 7 around it; zero beyond the edge."""
    kernel = torch.arange(49, dtype=low.dtype).view(1, 1, 7, 7)
    return interpolate(conv2d(low, kernel, padding=REACH), scale_factor=2, mode="nearest")


@given(st.integers(1, 23), st.integers(1, 23), st.integers(4, 12))
def test_tiles_equal_the_whole(height, width, tile):
    low = torch.randint(-9, 9, (2, 1, height, width)).double()
    found = tiled(blurred, low, upscale=2, tile=tile, halo=REACH)
    assert torch.equal(found, blurred(low))


def test_a_halo_that_is_too_narrow_does_not():
    low = torch.randn(1, 1, 20, 20, dtype=torch.float64)
    found = tiled(blurred, low, upscale=2, tile=8, halo=REACH - 1)
    assert not torch.allclose(found, blurred(low))


@pytest.mark.parametrize("side", [16, 64, 256])
def test_no_piece_is_larger_than_a_tile_with_its_halo(side):
    seen = []

    def enlarge(low):
        seen.append(max(low.shape[-2:]))
        return low

    low = torch.randn(1, 1, side, side)
    assert torch.equal(tiled(enlarge, low, upscale=1, tile=16, halo=4), low)
    assert max(seen) <= 16 + 2 * 4 and len(seen) == (side // 16) ** 2
