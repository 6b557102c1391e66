"""The diffusion transformer: its published form, and text by each way into it."""

import pytest
import torch
from diffusers import DiTTransformer2DModel
from diffusers.models.embeddings import get_2d_sincos_pos_embed
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from t2ibench.cli.compose import compose_spec
from t2ibench.core.errors import ConfigError
from t2ibench.core.types import TextFeatures
from t2ibench.engine.build import instantiate
from t2ibench.engine.context import Context
from t2ibench.engine.train import check
from t2ibench.families.diffusion.dit import DiT, grid_positions

CONDITIONINGS = ("concat", "modulation", "cross_attention")
LABELS, POSITIONS = 1001, 256


def make_network(conditioning="modulation", *, random=True, **changes):
    torch.manual_seed(0)
    arguments = {
        "latent_channels": 4,
        "text_width": 12,
        "width": 32,
        "depth": 4,
        "heads": 2,
        "patch": 2,
    }
    network = DiT(conditioning=conditioning, **(arguments | changes))
    if random:
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return network


def make_text(count=3, length=5, width=12):
    mask = torch.arange(length) < torch.tensor([length, 2, 1, 4, 3])[:count, None]
    return TextFeatures(torch.randn(count, length, width), mask, torch.randn(count, width))


def published(network, text_vectors):
    """diffusers' DiT with our weights, whose label k is our k-th sentence vector."""
    width, depth, heads = network.width, len(network.blocks), network.blocks[0].attention.heads
    reference = DiTTransformer2DModel(
        num_attention_heads=heads,
        attention_head_dim=width // heads,
        in_channels=network.embed.in_channels,
        out_channels=network.out_channels,
        num_layers=depth,
        sample_size=16,
        patch_size=network.patch,
        num_embeds_ada_norm=len(text_vectors),
        norm_eps=1e-6,
    ).eval()
    theirs = reference.state_dict()

    def give(name, layer):
        theirs[f"{name}.weight"], theirs[f"{name}.bias"] = layer.weight, layer.bias

    give("pos_embed.proj", network.embed)
    give("proj_out_1", network.modulation)
    give("proj_out_2", network.out)
    for i, block in enumerate(network.blocks):
        at = f"transformer_blocks.{i}"
        weights, biases = block.attention.qkv.weight.chunk(3), block.attention.qkv.bias.chunk(3)
        for name, weight, bias in zip("qkv", weights, biases, strict=True):
            theirs[f"{at}.attn1.to_{name}.weight"] = weight
            theirs[f"{at}.attn1.to_{name}.bias"] = bias
        give(f"{at}.attn1.to_out.0", block.attention.out)
        give(f"{at}.ff.net.0.proj", block.mlp[0])
        give(f"{at}.ff.net.2", block.mlp[2])
        give(f"{at}.norm1.linear", block.modulation)
        give(f"{at}.norm1.emb.timestep_embedder.linear_1", network.time[0])
        give(f"{at}.norm1.emb.timestep_embedder.linear_2", network.time[2])
        table = f"{at}.norm1.emb.class_embedder.embedding_table.weight"
        theirs[table] = torch.cat([text_vectors, torch.zeros(1, width)])
    reference.load_state_dict(theirs, strict=True)
    for block in reference.transformer_blocks:
        # The published frequencies end at 10000^-(127/128); diffusers ends them at 1/10000.
        block.norm1.emb.time_proj.downscale_freq_shift = 0
    return reference


@torch.no_grad()
@pytest.mark.parametrize("changes", [{}, {"learned_variance": True, "extra_channels": 2}])
def test_adaln_zero_is_the_published_network(changes):
    network, text = make_network(**changes), make_text()
    reference = published(network, network.prepare(text)[0])
    x = torch.randn(3, network.embed.in_channels, 16, 16)
    t = torch.tensor([0, 17, 999])
    expected = reference(x, t, torch.arange(3)).sample
    found = network(x, t.float(), network.prepare(text))
    assert found.std() > 0.1
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("side", "features"), [(1, 4), (8, 32), (16, 1152), (40, 64)])
def test_positions_are_the_published_ones(side, features):
    expected = get_2d_sincos_pos_embed(features, side, base_size=side)
    torch.testing.assert_close(
        grid_positions(side, side, features), expected.float(), atol=1e-5, rtol=0
    )


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 6), st.integers(1, 6))
def test_positions_of_a_part_are_those_of_the_whole(height, width, fewer_rows, fewer_columns):
    whole = grid_positions(height + fewer_rows, width + fewer_columns, 8)
    part = grid_positions(height, width, 8)
    grid = whole.unflatten(0, (height + fewer_rows, width + fewer_columns))
    assert torch.equal(grid[:height, :width].flatten(0, 1), part)
    assert len(part.unique(dim=0)) == height * width


@torch.no_grad()
@pytest.mark.parametrize("conditioning", CONDITIONINGS)
@pytest.mark.parametrize("long_skips", [False, True])
def test_blocks_start_as_the_identity_and_the_output_as_zero(conditioning, long_skips):
    network = make_network(conditioning, random=False, long_skips=long_skips)
    contexts = network.prepare(make_text())
    x, t = torch.randn(3, 4, 8, 8), torch.tensor([0.0, 500.0, 999.0])
    assert torch.equal(network(x, t, contexts), torch.zeros(3, 4, 8, 8))
    tokens, embedding = torch.randn(3, 16, 32), torch.randn(3, 32)
    found = network._run(tokens, embedding, contexts[1:], None)
    torch.testing.assert_close(found, tokens)


@torch.no_grad()
@pytest.mark.parametrize("conditioning", CONDITIONINGS)
@pytest.mark.parametrize("size", [(8, 8), (16, 12), (2, 30)])
def test_any_multiple_of_the_patch_is_read(conditioning, size):
    network = make_network(conditioning)
    x, t = torch.randn(3, 4, *size), torch.tensor([3.0, 500.0, 999.0])
    assert network(x, t, network.prepare(make_text())).shape == x.shape


@torch.no_grad()
def test_an_output_value_stands_where_its_patch_does():
    # Without blocks and with one bias a place, the order inside a patch is seen.
    network = make_network(random=False, depth=0, latent_channels=3)
    network.out.bias.copy_(torch.arange(12.0))
    found = network(torch.randn(3, 3, 4, 6), torch.zeros(3), network.prepare(make_text()))
    place = torch.tensor([[0.0, 3.0], [6.0, 9.0]]).repeat(2, 3)
    for channel in range(3):
        assert torch.equal(found[0, channel], place + channel)


def test_impossible_sizes_are_refused_in_one_sentence():
    network = make_network()
    contexts = network.prepare(make_text())
    with pytest.raises(ConfigError, match=r"patch=2 cannot read 7 x 8 values"):
        network(torch.zeros(3, 4, 7, 8), torch.zeros(3), contexts)
    with pytest.raises(ConfigError, match=r"width=30 must be a multiple of 4"):
        make_network(width=30)
    with pytest.raises(ConfigError, match=r"heads=3"):
        make_network(width=32, heads=3)
    spec = compose_spec(["model=diffusion/fast_dit", "model.module.network.patch=3"])
    with pytest.raises(ConfigError, match=r"data.resolution=32 is not a multiple of 6"):
        check(Context(spec))


@torch.no_grad()
@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_text_is_seen_once_prepared_and_padding_is_not(conditioning):
    network, text = make_network(conditioning), make_text()
    x, t = torch.randn(3, 4, 8, 8), torch.full((3,), 300.0)
    calls = []
    readers = [m for m in network.modules() if isinstance(m, nn.Linear) and m.in_features == 12]
    for reader in readers:
        reader.register_forward_hook(lambda *args: calls.append(1))
    contexts = network.prepare(text)
    first = network(x, t, contexts)
    assert torch.equal(network(x, t, contexts), first)
    assert len(calls) == len(readers) == (4 if conditioning == "cross_attention" else 1)

    other = make_text()
    pooled, tokens = conditioning == "modulation", conditioning != "modulation"
    changed = {
        "pooled": TextFeatures(text.tokens, text.mask, other.pooled),
        "tokens": TextFeatures(other.tokens, text.mask, text.pooled),
        "padding": TextFeatures(
            torch.where(text.mask[..., None], text.tokens, other.tokens), text.mask, text.pooled
        ),
    }
    for name, seen in {"pooled": pooled, "tokens": tokens, "padding": False}.items():
        found = network(x, t, network.prepare(changed[name]))
        differs = (found - first).abs().amax((1, 2, 3)) > 1e-4
        assert bool(differs.all()) == seen and bool(differs.any()) == seen, name


@torch.no_grad()
@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_rows_do_not_see_each_other(conditioning):
    network, text = make_network(conditioning), make_text()
    x, t = torch.randn(3, 4, 8, 8), torch.tensor([3.0, 500.0, 999.0])
    together = network(x, t, network.prepare(text))
    for i in range(3):
        alone = network(x[i : i + 1], t[i : i + 1], network.prepare(text[i : i + 1]))
        torch.testing.assert_close(alone[0], together[i], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_vector_and_extra_channels_are_further_conditions():
    network = make_network("cross_attention", vector_width=6, extra_channels=3)
    contexts = network.prepare(make_text())
    x, t, vector = torch.randn(3, 7, 8, 8), torch.zeros(3), torch.randn(3, 6)
    first = network(x, t, contexts, vector=vector)
    assert first.shape == (3, 4, 8, 8)
    assert not torch.allclose(network(x, t, contexts, vector=vector + 1), first, atol=1e-3)
    x[:, 4:] += 1
    assert not torch.allclose(network(x, t, contexts, vector=vector), first, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("depth", [1, 2, 5])
def test_long_skips_join_twins(depth):
    network = make_network(depth=depth, long_skips=True)
    assert [b.skip is not None for b in network.blocks] == [
        i >= depth - depth // 2 for i in range(depth)
    ]
    inputs, outputs = {}, {}
    for i, block in enumerate(network.blocks):
        if block.skip is not None:
            block.skip.register_forward_hook(
                lambda layer, args, out, i=i: inputs.__setitem__(i, args[0][..., 32:])
            )
        block.register_forward_hook(lambda b, args, out, i=i: outputs.__setitem__(i, out))
    network(torch.randn(3, 4, 8, 8), torch.zeros(3), network.prepare(make_text()))
    assert set(inputs) == set(range(depth - depth // 2, depth))
    for i, skip in inputs.items():
        assert torch.equal(skip, outputs[depth - 1 - i])


def test_paper_size_has_the_published_weights_but_for_the_text():
    spec = compose_spec(["model=diffusion/dit", "size=paper", "data.resolution=256"])
    build = instantiate(spec.model.module.arguments["network"])
    with torch.device("meta"):
        network = build(latent_channels=4, text_width=768)
    count = sum(p.numel() for p in network.parameters())
    fixed = POSITIONS * 1152
    text = 768 * 1152 + 1152
    assert count - text == 675_129_632 - LABELS * 1152 - fixed
