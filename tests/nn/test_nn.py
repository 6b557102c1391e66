"""Attention, conditioning, embeddings and EMA against closed forms."""

import math

import pytest
import torch
from torch import nn

from t2ibench.core.errors import ConfigError
from t2ibench.core.types import TextFeatures
from t2ibench.nn.attention import Attention, TransformerBlock
from t2ibench.nn.conditioning import SpatialConditioning, make_conditioning
from t2ibench.nn.ema import WeightEMA
from t2ibench.nn.embeddings import timestep_embedding

KINDS = ("concat", "modulation", "cross_attention")


def text(lengths=(3, 5), width=6):
    torch.manual_seed(1)
    longest = max(lengths)
    mask = torch.arange(longest)[None] < torch.tensor(lengths)[:, None]
    n = len(lengths)
    return TextFeatures(torch.randn(n, longest, width), mask, torch.randn(n, width))


def test_attention_is_torch_multihead_attention():
    torch.manual_seed(0)
    ours, theirs = Attention(8, 2), nn.MultiheadAttention(8, 2, batch_first=True, bias=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.to_q.weight, ours.to_kv.weight]))
        theirs.in_proj_bias.zero_()
        theirs.out_proj.weight.copy_(ours.to_out.weight)
        theirs.out_proj.bias.copy_(ours.to_out.bias)
    x, mask = torch.randn(2, 5, 8), torch.arange(5)[None] < torch.tensor([3, 5])[:, None]
    expected, _ = theirs(x, x, x, key_padding_mask=~mask)
    torch.testing.assert_close(ours(x, mask=mask), expected, atol=1e-6, rtol=1e-5)


def test_causal_attention_ignores_the_future():
    torch.manual_seed(0)
    attention, x = Attention(8, 2), torch.randn(1, 6, 8)
    changed = x.clone()
    changed[:, 4:] += 1
    a, b = attention(x, causal=True), attention(changed, causal=True)
    torch.testing.assert_close(a[:, :4], b[:, :4])
    assert not torch.allclose(a[:, 4:], b[:, 4:])


def test_padding_does_not_reach_real_positions():
    block, x = TransformerBlock(8, 2), torch.randn(1, 4, 8)
    padded = torch.cat([x, torch.full((1, 3, 8), 7.0)], 1)
    mask = torch.arange(7)[None] < 4
    torch.testing.assert_close(block(padded, mask)[:, :4], block(x), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_conditioning_starts_as_the_identity_and_then_uses_the_text(kind):
    torch.manual_seed(0)
    block, x, features = make_conditioning(kind, 8, 6, heads=2), torch.randn(2, 4, 8), text()
    torch.testing.assert_close(block(x, block.prepare(features)), x)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.5)
    out = block(x, block.prepare(features))
    other = block(x, block.prepare(text((3, 4))))
    assert not torch.allclose(out, x) and not torch.allclose(out, other)


@pytest.mark.parametrize("kind", KINDS)
def test_spatial_conditioning_is_the_sequence_block_pixel_by_pixel(kind):
    torch.manual_seed(0)
    spatial, features = SpatialConditioning(kind, 8, 6, heads=2), text()
    for parameter in spatial.parameters():
        nn.init.normal_(parameter, std=0.5)
    x = torch.randn(2, 8, 3, 3)
    tokens = x.flatten(2).transpose(1, 2)
    expected = spatial.block(tokens, spatial.prepare(features)).transpose(1, 2).view(2, 8, 3, 3)
    torch.testing.assert_close(spatial(x, spatial.prepare(features)), expected)


def test_unknown_conditioning_is_one_sentence():
    with pytest.raises((ConfigError, Exception), match="concat"):
        make_conditioning("telepathy", 8, 6)


def test_timestep_embedding_closed_form():
    out = timestep_embedding(torch.tensor([3.0]), 4)
    expected = [math.cos(3), math.cos(0.03), math.sin(3), math.sin(0.03)]
    torch.testing.assert_close(out[0], torch.tensor(expected))


def test_ema_halves_at_its_half_life():
    parameter = nn.Parameter(torch.tensor([1.0]))
    ema = WeightEMA({"w": parameter}, half_life_images=64)
    with torch.no_grad():
        parameter.zero_()
    for _ in range(8):
        ema.update(8, images_seen=10**9)
    torch.testing.assert_close(ema.shadow["w"], torch.tensor([0.5]))
    with ema.applied():
        assert parameter.item() == pytest.approx(0.5)
    assert parameter.item() == 0.0
    with pytest.raises(KeyError, match="names differ"):
        ema.load_state_dict({"other": torch.zeros(1)})
