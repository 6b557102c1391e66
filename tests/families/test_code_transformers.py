"""The papers' transformers over codes: the released code's logits, caches, order, padding."""

import functools

import pytest
import torch
from families.test_autoregressive import CAPTIONS, all_codes, make_module, text_of, train
from families.token_transformers import (
    CODES,
    COMMON,
    TEXT_LENGTH,
    codes_by_formula,
    filled,
    published,
    text_by_formula,
)

from t2ibench.cli.compose import compose_spec
from t2ibench.core.errors import ConfigError
from t2ibench.core.noise import SeededNoise
from t2ibench.core.types import TextFeatures
from t2ibench.engine.build import instantiate
from t2ibench.families.autoregressive.llama_gen import LlamaGen, grid_rotation, rotate
from t2ibench.families.autoregressive.parti import Parti, convolution_window
from t2ibench.families.autoregressive.taming_gpt import TamingGPT
from t2ibench.families.autoregressive.weight_decay import decay_groups

CONDITIONINGS = ("concat", "modulation", "cross_attention")
NETWORKS = {
    "taming": functools.partial(
        TamingGPT, block_size=24, embedding_dropout=0.0, residual_dropout=0.0
    ),
    "llama": functools.partial(
        LlamaGen, mlp_multiple=16, embedding_dropout=0.0, residual_dropout=0.0
    ),
    "parti": functools.partial(Parti, encoder_depth=1, window=0, dropout=0.0),
    "parti_window": functools.partial(Parti, encoder_depth=1, window=3, dropout=0.0),
}
LLAMA_COUNTS = {768: 110_888_448, 1024: 342_910_976, 1280: 774_699_520, 1536: 1_410_972_672}
"""Parameters of the released code's GPT-B, -L, -XL and -XXL of 1,000 classes, by width."""

PARTI_COUNTS = {
    "350m": 370_639_872,
    "750m": 773_686_272,
    "3b": 3_057_321_984,
    "paper": 20_477_988_864,
}
"""Ours, without what reads the text."""

LLAMA_TEXT_COUNT = 777_678_080
"""Parameters of its GPT-XL with text."""

CASES = [(name, kind) for name in NETWORKS for kind in CONDITIONINGS]
EXACT = {"atol": 1e-5, "rtol": 0}


def network_of(name, conditioning, **changes):
    """The small network with weights by the formula, the text of all mechanisms seen."""
    return filled(NETWORKS[name](**(COMMON | changes), conditioning=conditioning))


def family_of(name, conditioning, **changes):
    """The family around a network, after a few steps."""
    shape = {"width": 16, "depth": 2, "heads": 2, "conditioning": conditioning}
    network = functools.partial(NETWORKS[name], **(shape | changes.pop("network", {})))
    module = make_module(network=network, **changes)
    train(module, 4, all_codes())
    return module.eval()


def without_text_in_blocks(network):
    """The network whose modulation adds nothing, as the released ones have none."""
    for block in network.blocks:
        if block.text is not None:
            torch.nn.init.zeros_(block.text.out.weight)
            torch.nn.init.zeros_(block.text.out.bias)
    return network


@torch.no_grad()
def stepped(network, codes, text):
    """Logits of all codes, one after the other from the cache."""
    cache = network.start_cache(text)
    steps = range(codes.shape[1])
    logits = [network.step(codes[:, n - 1] if n else None, n, cache) for n in steps]
    return torch.stack(logits, 1)


@torch.no_grad()
@pytest.mark.parametrize("conditioning", ["concat", "modulation"])
def test_taming_logits_are_the_released_codes(conditioning):
    network = without_text_in_blocks(network_of("taming", conditioning))
    expected = published({"concat": "taming_prefix", "modulation": "taming_start"}[conditioning])
    found = network(codes_by_formula(), text_by_formula())
    assert expected.std() > 1
    torch.testing.assert_close(found, expected, **EXACT)


@torch.no_grad()
@pytest.mark.parametrize("conditioning", ["concat", "modulation"])
def test_llama_logits_are_the_released_codes(conditioning):
    """With the released padding of the second caption in front, and its mask."""
    network = without_text_in_blocks(network_of("llama", conditioning))
    expected = published({"concat": "llama_prefix", "modulation": "llama_start"}[conditioning])
    found = network(codes_by_formula(), text_by_formula((TEXT_LENGTH, 2)))
    assert expected.std() > 0.5
    torch.testing.assert_close(found, expected, **EXACT)


@torch.no_grad()
@pytest.mark.parametrize(("name", "conditioning"), CASES)
def test_cached_logits_equal_those_without_a_cache(name, conditioning):
    """In a batch of guidance: captions of several lengths, and the unconditional rows."""
    network = network_of(name, conditioning)
    null = text_by_formula((1, 1))
    null = TextFeatures(-null.tokens, null.mask, -null.pooled)
    text = TextFeatures.cat([text_by_formula((TEXT_LENGTH, 2)), null])
    codes = codes_by_formula().repeat(2, 1)
    expected = network(codes, text)
    torch.testing.assert_close(stepped(network, codes, text), expected, **EXACT)
    assert (expected[0] - expected[2]).abs().max() > 0.01


@torch.no_grad()
@pytest.mark.parametrize(("name", "conditioning"), CASES)
def test_a_code_sees_only_codes_before_it(name, conditioning):
    network, text, codes = network_of(name, conditioning), text_by_formula(), codes_by_formula()
    changed = codes.clone()
    changed[:, 7] = (changed[:, 7] + 1) % CODES
    before, after = network(codes, text), network(changed, text)
    torch.testing.assert_close(before[:, :8], after[:, :8])
    # Every later code sees it, not the next alone; in a small window not all do.
    later = ((before[:, 8:] - after[:, 8:]).abs().amax(-1) > 1e-5).all(0)
    assert later[0] and (later.all() or name == "parti_window")


@torch.no_grad()
@pytest.mark.parametrize(("name", "conditioning"), CASES)
def test_padding_and_other_captions_are_not_seen(name, conditioning):
    network, codes = network_of(name, conditioning), codes_by_formula()
    text = text_by_formula((2, TEXT_LENGTH))
    first = network(codes, text)
    alone = TextFeatures(text.tokens[:1, :2], text.mask[:1, :2], text.pooled[:1])
    torch.testing.assert_close(network(codes[:1], alone), first[:1], **EXACT)
    noisy = TextFeatures(text.tokens + 9.0 * ~text.mask.unsqueeze(-1), text.mask, text.pooled)
    torch.testing.assert_close(network(codes, noisy), first, **EXACT)


@pytest.mark.parametrize(("name", "conditioning"), CASES)
def test_guided_samples_belong_to_their_prompt_and_seed(name, conditioning):
    module = family_of(name, conditioning)
    knobs = {"guidance_scale": 3.0, "top_k": 5}
    together = module.generate(CAPTIONS, SeededNoise([1, 2, 3, 4]), knobs)
    for i in (1, 3):
        alone = module.generate([CAPTIONS[i]], SeededNoise([i + 1]), knobs)
        torch.testing.assert_close(alone[0], together[i], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["taming", "llama", "parti"])
def test_it_learns_to_write_the_codes_that_a_caption_names(name):
    network = {"width": 32, "depth": 2, "heads": 2}
    module = family_of(name, "concat", network=network, null_text_probability=0.0)
    train(module, 200, all_codes())
    drawn = module.generate(
        CAPTIONS, SeededNoise([1, 2, 3, 4]), {"temperature": 0.0, "guidance_scale": 1.0}
    )
    expected = module.first_stage.decode_codes(all_codes()).clamp(-1, 1)
    assert torch.allclose(drawn, expected, atol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_width_that_heads_do_not_share_is_refused(name):
    with pytest.raises(ConfigError, match=r"width=16 cannot be shared by heads=3"):
        network_of(name, "concat", heads=3)


def test_codes_that_do_not_fit_the_positions_are_refused():
    with pytest.raises(ConfigError, match=r"block_size=24 .* 5 tokens .* 25 codes; set it to 30"):
        network_of("taming", "concat", length=25)
    assert network_of("taming", "modulation", length=24).position.shape == (24, 16)


def test_what_decays_is_the_papers():
    module = family_of("taming", "concat")
    decayed, spared = decay_groups(module, "linear")
    names = {id(p): n for n, p in module.named_parameters()}
    decayed = {names[id(p)] for p in decayed["params"]}
    assert spared["weight_decay"] == 0
    spared = {names[id(p)] for p in spared["params"]}
    assert {"network.head.weight", "network.blocks.0.to_qkv.weight"} <= decayed
    assert {"network.code.weight", "network.position", "network.norm.weight"} <= spared
    assert not [name for name in decayed if not name.endswith("weight")]
    assert decayed | spared == {n for n, p in module.named_parameters() if p.requires_grad}
    matrices, rest = decay_groups(module, "matrices")
    assert {p.ndim for p in rest["params"]} == {1}
    assert len(matrices["params"]) + len(rest["params"]) == len(decayed | spared)
    assert len(decay_groups(module, "all")) == len(decayed | spared)


def at_paper_size(model, size="paper", **arguments):
    """Parameters of a model's network on the meta device, by the first part of their names."""
    spec = compose_spec([f"model=autoregressive/{model}", f"size={size}"])
    build = instantiate(spec.model.module.arguments["network"])
    with torch.device("meta"):
        network = build(**arguments)
    counts = {}
    for name, parameter in network.named_parameters():
        part = name.split(".")[0]
        counts[part] = counts.get(part, 0) + parameter.numel()
    return counts


def test_taming_at_size_paper_has_the_published_weights():
    """Those of the drin and faceshq configurations, and what reads the text besides."""
    shape = {"codebook_size": 1024, "length": 256, "text_width": 768, "text_length": 256}
    counts = at_paper_size("vqgan_gpt", **shape)
    assert counts.pop("text") == 768 * 1024 + 1024
    assert sum(counts.values()) == 304_932_864


def test_taming_samples_as_published():
    arguments = compose_spec(["model=autoregressive/vqgan_gpt"]).model.module.arguments
    assert (arguments["top_k"], arguments["temperature"], arguments["top_p"]) == (250, 1.0, 1.0)
    assert family_of("taming", "concat", top_k=250).knobs[2].default == 12


@pytest.mark.parametrize(
    ("width", "depth", "heads", "published"),
    [(768, 12, 12, 111e6), (1024, 24, 16, 343e6), (1280, 36, 20, 775e6), (1536, 48, 24, 1.4e9)],
)
def test_llama_has_the_published_weights(width, depth, heads, published):
    """LlamaGen's table, with an embedding of 1,001 classes for what reads the text."""
    with torch.device("meta"):
        network = LlamaGen(
            codebook_size=16384, length=256, text_width=2048, text_length=120, width=width,
            depth=depth, heads=heads, mlp_multiple=256, embedding_dropout=0.1,
            residual_dropout=0.1, conditioning="concat",
        )  # fmt: skip
    text = sum(p.numel() for p in network.text.parameters())
    count = sum(p.numel() for p in network.parameters()) - text + 1001 * width
    assert count == LLAMA_COUNTS[width]
    assert count == pytest.approx(published, rel=0.011)


def test_llama_at_size_paper_is_the_released_text_model():
    shape = {"codebook_size": 16384, "length": 256, "text_width": 2048, "text_length": 120}
    assert sum(at_paper_size("llama_gen", **shape).values()) == LLAMA_TEXT_COUNT
    assert at_paper_size("llama_gen", "b", **shape)["code"] == 16384 * 768


def test_llama_head_starts_at_the_uniform_guess():
    torch.manual_seed(0)
    network = NETWORKS["llama"](**COMMON, conditioning="concat")
    assert not network(codes_by_formula(), text_by_formula()).any()
    assert network.code.weight.std().item() == pytest.approx(0.02, rel=0.2)


def test_rotated_products_depend_on_the_way_between_two_places():
    rotation, x, y = grid_rotation(4, 8), torch.randn(8), torch.randn(8)

    def product(a, b):
        turned = [
            rotate(v.expand(1, 1, 1, 8), rotation[4 * i + j][None])
            for v, (i, j) in ((x, a), (y, b))
        ]
        return float((turned[0] * turned[1]).sum())

    assert product((0, 1), (2, 2)) == pytest.approx(product((1, 2), (3, 3)), abs=1e-5)
    assert product((0, 1), (2, 2)) != pytest.approx(product((0, 1), (2, 3)), abs=1e-3)
    assert product((0, 0), (0, 0)) == pytest.approx(float(x @ y), abs=1e-5)


def test_llama_drops_captions_to_fixed_tokens_at_their_places():
    module = family_of("llama", "concat", null_text_probability=1.0)
    network = module.network
    text = text_of(module)
    null = module.null_like(text)
    assert torch.equal(null.mask, text.mask)
    for i, count in enumerate(text.mask.sum(1).tolist()):
        assert torch.equal(null.tokens[i, :count], network.null_tokens[-count:])
    dropped = module.drop_text(text)
    assert torch.equal(dropped.tokens, null.tokens) and torch.equal(dropped.mask, null.mask)
    # Nothing of the caption but its length is left.
    other = TextFeatures(text.tokens + 1, text.mask, text.pooled + 1)
    assert torch.equal(module.null_like(other).tokens, null.tokens)
    assert torch.equal(module.null_like(other).pooled, null.pooled)


def test_parti_has_the_published_sizes():
    """Names of the four sizes; sums of the table's matrices with 16,000 words and 8,192 codes."""
    shape = {"codebook_size": 8192, "length": 1024, "text_width": 8, "text_length": 128}
    sums = {"350m": 385e6, "750m": 788e6, "3b": 3.09e9, "paper": 20.5e9}
    for size, expected in sums.items():
        counts = at_paper_size("parti", size, **shape)
        width = counts["head"] // 8192
        assert counts.pop("text") == 9 * width
        assert sum(counts.values()) + 16_000 * width == pytest.approx(expected, rel=0.01)
        assert sum(counts.values()) == PARTI_COUNTS[size]


def test_a_window_is_the_square_of_a_convolution():
    near = convolution_window(4, 3)
    place = 4 * 2 + 1  # row 2, column 1
    seen = {m - 1 for m in range(16) if near[place, m] and m - 1 < place}
    # The start; three above; the two beside in its own row; the one before.
    assert seen == {-1, 4, 5, 6, 8}
    # At the start of a row the code before is the end of the row above.
    assert near[8, 8] and convolution_window(4, 7).tril().sum() == torch.ones(16, 16).tril().sum()


@torch.no_grad()
def test_a_window_is_seen_by_a_layer():
    network = network_of("parti_window", "cross_attention", depth=1)
    network.code.weight *= 5
    text, codes = text_by_formula(), codes_by_formula()
    changed = codes.clone()
    changed[:, 1] = (changed[:, 1] + 1) % CODES
    differs = (network(codes, text) - network(changed, text)).abs().amax((0, 2)) > 1e-6
    assert differs.nonzero().flatten().tolist() == [2, 4, 5, 6]


@pytest.mark.parametrize(
    ("changes", "named"), [({"window": 4}, "window=4"), ({"length": 15}, "15")]
)
def test_a_window_that_is_no_square_around_a_code_is_refused(changes, named):
    with pytest.raises(ConfigError, match=named):
        network_of("parti_window", "concat", **changes)


@torch.no_grad()
def test_parti_encodes_a_prompt_once():
    network, text = network_of("parti", "cross_attention"), text_by_formula()
    calls = []
    network.encoder[0].register_forward_hook(lambda *args: calls.append(1))
    network.blocks[0].cross.to_kv.register_forward_hook(lambda *args: calls.append(2))
    stepped(network, codes_by_formula(), text)
    assert calls == [1, 2]
