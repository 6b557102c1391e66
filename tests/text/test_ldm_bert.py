"""Latent diffusion's text transformer against diffusers' copy of it."""

import pytest
import torch
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import (
    LDMBertConfig,
    LDMBertModel,
)

from t2ibench.cli.compose import compose_spec
from t2ibench.core.errors import ConfigError, MissingWeightsError
from t2ibench.engine.context import Context
from t2ibench.text.ldm_bert import LDMBert, Transformer

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "ring", "##s", "un", "##red"]
LAYOUT = {"max_length": 8, "width": 24, "depth": 2, "heads": 2, "head_width": 8}


@pytest.fixture
def vocabulary(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(PIECES) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def encoder(vocabulary):
    torch.manual_seed(0)
    return LDMBert(path=vocabulary, **LAYOUT)


def test_published_layout_has_the_published_counts():
    with torch.device("meta"):
        model = Transformer(
            vocabulary_size=30522, max_length=77, width=1280, depth=32, heads=8, head_width=64
        )
        to_logits = torch.nn.Linear(1280, 30522)
    count = sum(p.numel() for p in model.parameters())
    assert count == 542_895_360
    assert count + sum(p.numel() for p in to_logits.parameters()) == 581_994_042
    assert len(model.state_dict()) == 420


def test_the_network_is_diffusers_under_its_names(encoder):
    torch.manual_seed(1)
    config = LDMBertConfig(
        vocab_size=len(PIECES),
        max_position_embeddings=8,
        encoder_layers=2,
        encoder_ffn_dim=96,
        encoder_attention_heads=2,
        head_dim=8,
        d_model=24,
        init_std=0.3,
    )
    theirs = LDMBertModel(config).eval()
    state = {n: t for n, t in theirs.state_dict().items() if not n.startswith("to_logits.")}
    encoder.load_state_dict(state, strict=True)
    ids, _ = encoder.tokenize(["a red ring", ""])
    with torch.no_grad():
        expected = theirs(input_ids=ids, return_dict=False)[0]
        torch.testing.assert_close(
            encoder.encode(["a red ring", ""]).tokens, expected, atol=1e-5, rtol=1e-5
        )


def test_word_pieces_are_berts(encoder):
    ids, own = encoder.tokenize(["A Red ring", "rings, unred!", "", "a " * 20])
    assert ids.tolist() == [
        [2, 5, 6, 7, 3, 0, 0, 0],
        [2, 7, 8, 1, 9, 10, 1, 3],
        [2, 3, 0, 0, 0, 0, 0, 0],
        [2, 5, 5, 5, 5, 5, 5, 3],
    ]
    assert own.sum(1).tolist() == [5, 8, 2, 8]
    report = encoder.token_report(["A Red ring", "rings, unred!", "", "a " * 20])
    assert (report.longest, report.truncated) == (22, (3,))
    assert report.unknown == pytest.approx(2 / 29)
    assert report.lost == pytest.approx(14 / 29)


def test_padding_is_attended_to_and_a_caption_is_encoded_alike_in_any_batch(encoder):
    together = encoder.encode(["a red ring", "", "ring"])
    assert together.mask.all() and together.tokens.shape == (3, 8, 24)
    alone = encoder.encode([""])
    torch.testing.assert_close(alone.tokens[0], together.tokens[1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(alone.pooled[0], together.tokens[1, :2].mean(0))
    torch.testing.assert_close(encoder.null(3).tokens[2], alone.tokens[0])
    with torch.no_grad():
        encoder.model.embed_tokens.weight[0].normal_()
    assert (encoder.encode(["ring"]).tokens[0, 1] - together.tokens[2, 1]).abs().max() > 1e-3


def test_it_is_trained_and_its_fingerprint_is_layout_and_vocabulary(encoder, vocabulary):
    assert encoder.trainable
    features = encoder.encode(["a red ring"])
    (features.tokens.square().sum() + features.pooled.sum()).backward()
    assert [n for n, p in encoder.named_parameters() if p.grad is None] == []
    other = LDMBert(path=vocabulary.parent, **LAYOUT)
    assert other.fingerprint == encoder.fingerprint
    vocabulary.write_text("\n".join([*PIECES, "blue"]), encoding="utf-8")
    assert LDMBert(path=vocabulary, **LAYOUT).fingerprint != encoder.fingerprint
    assert LDMBert(path=vocabulary, **(LAYOUT | {"heads": 4, "head_width": 4})).fingerprint != (
        LDMBert(path=vocabulary, **LAYOUT).fingerprint
    )


def test_the_configuration_builds_it_and_names_a_missing_file(vocabulary):
    layout = ["text.encoder.width=24", "text.encoder.depth=1", "text.encoder.heads=2"]
    spec = compose_spec(["text=ldm_bert", f"text.path={vocabulary}", *layout])
    built = spec.text.restore(Context(spec), None)
    assert (built.width, built.max_length, len(built.model.layers)) == (24, 77, 1)
    with pytest.raises(MissingWeightsError, match=r"text.path=None.*vocab.txt"):
        lacking = compose_spec(["text=ldm_bert"])
        lacking.text.check(Context(lacking))
    with pytest.raises(MissingWeightsError, match="nowhere/vocab.txt"):
        LDMBert(path="nowhere/vocab.txt", **LAYOUT)


def test_impossible_vocabularies_and_lengths_are_refused(vocabulary):
    with pytest.raises(ConfigError, match="at least 3"):
        LDMBert(path=vocabulary, **(LAYOUT | {"max_length": 2}))
    vocabulary.write_text("a\nred\n[PAD]\n[UNK]\n[MASK]\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"its 5 lines lack \[CLS\], \[SEP\]"):
        LDMBert(path=vocabulary, **LAYOUT)
