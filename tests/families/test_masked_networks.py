"""The networks of MaskGIT and Muse: published layouts, and text by each way into them."""

import pytest
import torch
from families.test_masked import all_codes, make_module, train
from torch import nn
from transformers import BertConfig, BertForMaskedLM

from t2ibench.cli.compose import compose_spec
from t2ibench.core.errors import ConfigError
from t2ibench.core.types import TextFeatures
from t2ibench.engine.build import instantiate
from t2ibench.families.masked.fast_masked import MaskedNeighbours
from t2ibench.families.masked.maskgit import MaskGIT
from t2ibench.families.masked.muse import Muse
from t2ibench.samplers.masked import MASKED

CONDITIONINGS = ("concat", "modulation", "cross_attention")
NETWORKS = (MaskGIT, Muse, MaskedNeighbours)
CASES = [(network, kind) for network in NETWORKS for kind in CONDITIONINGS]
V, N, TEXT = 12, 16, 10


def make_network(network, conditioning, *, dropout=0.0, depth=3):
    torch.manual_seed(0)
    made = network(
        codebook_size=V,
        length=N,
        text_width=TEXT,
        width=24,
        depth=depth,
        heads=4,
        dropout=dropout,
        conditioning=conditioning,
    )
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made.eval()


def make_text(count=3, length=5):
    mask = torch.arange(length) < torch.tensor([length, 2, 1])[:count, None]
    return TextFeatures(torch.randn(count, length, TEXT), mask, torch.randn(count, TEXT))


def some_codes(count=3):
    codes = torch.randint(V, (count, N), generator=torch.Generator().manual_seed(1))
    codes[:, ::3] = MASKED
    return codes


def published(network):
    """transformers' BERT with our weights, for embedded rows: the front token, then the codes."""
    width, block = network.code.embedding_dim, network.blocks[0]
    reference = BertForMaskedLM(
        BertConfig(
            vocab_size=V + 1,
            hidden_size=width,
            num_hidden_layers=len(network.blocks),
            num_attention_heads=block.attention.heads,
            intermediate_size=4 * width,
            hidden_act="gelu_new",
            max_position_embeddings=N + 1,
            type_vocab_size=1,
            layer_norm_eps=1e-12,
        )
    ).eval()
    theirs = reference.state_dict()

    def give(name, layer):
        theirs[f"{name}.weight"], theirs[f"{name}.bias"] = layer.weight, layer.bias

    embeddings = "bert.embeddings"
    theirs[f"{embeddings}.word_embeddings.weight"] = network.code.weight
    theirs[f"{embeddings}.position_embeddings.weight"] = network.position
    theirs[f"{embeddings}.token_type_embeddings.weight"] = torch.zeros(1, width)
    give(f"{embeddings}.LayerNorm", network.norm_embedding)
    for i, block in enumerate(network.blocks):
        at = f"bert.encoder.layer.{i}"
        weights = block.attention.qkv.weight.chunk(3)
        biases = block.attention.qkv.bias.chunk(3)
        for name, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True):
            theirs[f"{at}.attention.self.{name}.weight"] = weight
            theirs[f"{at}.attention.self.{name}.bias"] = bias
        give(f"{at}.attention.output.dense", block.attention.out)
        give(f"{at}.attention.output.LayerNorm", block.norm_attention)
        give(f"{at}.intermediate.dense", block.mlp[0])
        give(f"{at}.output.dense", block.mlp[2])
        give(f"{at}.output.LayerNorm", block.norm_mlp)
    head = "cls.predictions"
    give(f"{head}.transform.dense", network.transform)
    give(f"{head}.transform.LayerNorm", network.norm_transform)
    theirs[f"{head}.bias"] = theirs[f"{head}.decoder.bias"] = network.bias
    theirs[f"{head}.decoder.weight"] = network.code.weight
    reference.load_state_dict(theirs, strict=True)
    return reference


@torch.no_grad()
def test_maskgit_is_bert_with_a_tied_head():
    network, text, codes = make_network(MaskGIT, "concat"), make_text(), some_codes()
    reference = published(network)
    embedded = reference.bert.embeddings.word_embeddings(codes.where(codes >= 0, V))
    rows = torch.cat([network.front(text.pooled)[:, None], embedded], 1)
    expected = reference(inputs_embeds=rows).logits[:, 1:]
    found = network(codes, network.prepare(text))
    assert found.shape == (3, N, V + 1) and found.std() > 0.1
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def sketched(model, codebook_size, text_width):
    """The network of a model at size=paper, its shapes alone."""
    build = instantiate(
        compose_spec([f"model={model}", "size=paper"]).model.module.arguments["network"]
    )
    with torch.device("meta"):
        return build(codebook_size=codebook_size, length=256, text_width=text_width)


def test_paper_size_has_the_published_weights_but_for_the_text():
    """Of 256 px: 16 x 16 codes of 1024, 1000 classes that the text stands for."""
    network = sketched("masked/maskgit", 1024, 768)
    count = sum(p.numel() for p in network.parameters())
    text, classes = 768 * 768 + 768, 1000 * (768 + 1)
    assert count - text + classes == 172_457_193


def test_muse_of_paper_size_has_three_billion_weights():
    """No count is published but 3B: 48 layers of 16 D^2 are 3.22e9."""
    network = sketched("masked/muse", 8192, 4096)
    layers = sum(p.numel() for p in network.blocks.parameters())
    assert layers == pytest.approx(48 * 16 * 2048**2, rel=2e-3)
    assert sum(p.numel() for p in network.parameters()) == 3_268_724_736


@torch.no_grad()
@pytest.mark.parametrize(("network", "conditioning"), CASES)
def test_every_code_sees_all_others_that_are_known(network, conditioning):
    made, text, codes = make_network(network, conditioning), make_text(), some_codes()
    contexts = made.prepare(text)
    first = made(codes, contexts)
    changed = codes.clone()
    changed[:, 7] = (changed[:, 7] + 1) % V
    assert ((made(changed, contexts) - first).abs().amax(-1) > 1e-6).all()


@torch.no_grad()
@pytest.mark.parametrize(("network", "conditioning"), CASES)
def test_text_is_seen_once_prepared_and_padding_is_not(network, conditioning):
    made, text, codes = make_network(network, conditioning), make_text(), some_codes()
    calls = []
    for layer in made.modules():
        if isinstance(layer, nn.Linear) and layer.in_features == TEXT:
            layer.register_forward_hook(lambda *args: calls.append(1))
    contexts = made.prepare(text)
    read = len(calls)
    first = made(codes, contexts)
    assert torch.equal(made(codes, contexts), first) and len(calls) == read > 0
    other, words = make_text(), conditioning == "cross_attention"
    changed = {
        "pooled": TextFeatures(text.tokens, text.mask, other.pooled),
        "tokens": TextFeatures(other.tokens, text.mask, text.pooled),
        "padding": TextFeatures(
            torch.where(text.mask[..., None], text.tokens, other.tokens), text.mask, text.pooled
        ),
    }
    for name, seen in {"pooled": not words, "tokens": words, "padding": False}.items():
        found = made(codes, made.prepare(changed[name]))
        differs = (found - first).abs().amax((1, 2)) > 1e-4
        assert bool(differs.all()) == seen and bool(differs.any()) == seen, name


@torch.no_grad()
@pytest.mark.parametrize(("network", "conditioning"), CASES)
def test_rows_do_not_see_each_other(network, conditioning):
    made, text, codes = make_network(network, conditioning), make_text(), some_codes()
    together = made(codes, made.prepare(text))
    for i in range(3):
        alone = made(codes[i : i + 1], made.prepare(text[i : i + 1]))
        torch.testing.assert_close(alone[0], together[i], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_training_changes_every_parameter_and_only_those(network, conditioning):
    module = make_module(network, conditioning, dropout=0.1, null_text_probability=0.5)
    start = {n: p.detach().clone() for n, p in module.named_parameters()}
    losses = train(module, 4, all_codes())
    assert all(torch.isfinite(x) and not x.requires_grad for x in losses)
    same = {n for n, p in module.named_parameters() if torch.equal(p, start[n])}
    assert same == {n for n in start if n.startswith("first_stage.")}
    assert set(module.sampling_parameters()) == set(start) - same


@torch.no_grad()
def test_the_fast_networks_inputs_are_windows():
    """Of a changed code nine inputs change, four in a corner, those around it in the plane."""
    made, codes = make_network(MaskedNeighbours, "cross_attention"), some_codes(1)
    for place, count in ((5, 9), (0, 4), (12, 4), (7, 6)):
        changed = codes.clone()
        changed[0, place] = (changed[0, place] + 2) % V
        moved = (made.inputs(changed) - made.inputs(codes)).abs().amax(-1)[0] > 1e-6
        distance = [max(abs(i // 4 - place // 4), abs(i % 4 - place % 4)) for i in range(N)]
        assert moved.tolist() == [d <= 1 for d in distance] and moved.sum() == count


def test_dropout_of_attention_weights_is_that_of_the_authors():
    """One mask for all images and heads; without it the two ways of attention are one."""
    made = make_network(MaskGIT, "concat").blocks[0].attention
    x = torch.randn(3, N, 24)
    plain = made(x)
    made.train()
    made.dropout = 1e-12
    torch.testing.assert_close(made(x), plain, atol=1e-5, rtol=1e-5)
    made.dropout = 0.3
    torch.manual_seed(0)
    together = made(x)
    torch.manual_seed(0)
    torch.testing.assert_close(made(x[1:2])[0], together[1], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(together, plain, atol=1e-3)


def test_a_width_that_the_heads_do_not_divide_is_refused():
    with pytest.raises(ConfigError, match="width=24 is not a multiple of heads=5"):
        MaskGIT(
            codebook_size=V, length=N, text_width=TEXT, width=24, depth=1, heads=5, dropout=0.0,
            conditioning="concat",
        )  # fmt: skip
