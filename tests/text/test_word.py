"""Word-level encoders: tokens, padding, gradients, dropout, null and identity."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from t2ibench.core.errors import ConfigError
from t2ibench.text.contract import losses_of, warn_of_losses
from t2ibench.text.word import (
    END,
    SPECIAL,
    UNKNOWN,
    WordLSTM,
    WordTokenizer,
    WordTransformer,
    build_vocabulary,
    split_words,
)

WORDS = ["red", "blue", "a", "ring", "star", "above"]
CAPTIONS = st.lists(
    st.lists(st.sampled_from([*WORDS, "zyzzyva"]), max_size=9).map(" ".join), min_size=1, max_size=5
)


def transformer(**kwargs):
    torch.manual_seed(0)
    layout = {"width": 16, "depth": 2, "heads": 2, "max_length": 6} | kwargs
    return WordTransformer(vocabulary=WORDS, **layout)


def lstm(**kwargs):
    torch.manual_seed(0)
    return WordLSTM(vocabulary=WORDS, **({"width": 16, "max_length": 6} | kwargs))


ENCODERS = [transformer, lstm]


def test_words_are_lower_case_and_punctuation_only_separates():
    assert split_words("A Red-ring, 2 ﬁsh_x!") == ["a", "red", "ring", "2", "fish", "x"]
    assert split_words("…") == []


def test_vocabulary_is_ordered_by_count_then_alphabet():
    captions = ["b a", "a c", "c a b", "d"]
    assert build_vocabulary(captions) == ["a", "b", "c", "d"]
    assert build_vocabulary(captions, min_count=2) == ["a", "b", "c"]
    assert build_vocabulary(reversed(captions), max_size=2) == ["a", "b"]


def test_ids_end_truncation_and_unknown_words():
    tokenizer = WordTokenizer(WORDS, max_length=3)
    assert tokenizer.ids("") == [END]
    assert tokenizer.ids("red zyzzyva") == [SPECIAL, UNKNOWN, END]
    assert tokenizer.ids("blue ring star a") == [SPECIAL + 1, SPECIAL + 3, END]
    ids, mask = tokenizer(["", "a ring"])
    assert ids.tolist() == [[END, 0, 0], [SPECIAL + 2, SPECIAL + 3, END]]
    assert mask.sum(1).tolist() == [1, 3]


def test_the_report_names_truncated_captions_and_counts_unknown_words():
    report = transformer().token_report(["a ring", "a " * 6, "red xyzzy"])
    assert (report.captions, report.longest, report.truncated) == (3, 7, (1,))
    assert report.unknown == pytest.approx(1 / 10)


@pytest.mark.parametrize("vocabulary, length", [([], 4), (["a", "a"], 4), (["a"], 1)])
def test_impossible_tokenisers_are_refused(vocabulary, length):
    with pytest.raises(ConfigError):
        WordTokenizer(vocabulary, length)


def test_impossible_widths_are_refused():
    with pytest.raises(ConfigError, match="even"):
        lstm(width=15)
    with pytest.raises(ConfigError, match="multiple"):
        transformer(width=15)


@pytest.mark.parametrize("make", ENCODERS)
@given(captions=CAPTIONS)
def test_a_caption_is_encoded_alike_in_any_batch(make, captions):
    encoder = make().eval()
    together = encoder.encode(captions)
    assert together.mask.any(1).all()
    for i, caption in enumerate(captions):
        alone = encoder.encode([caption])
        length = alone.tokens.shape[1]
        assert together.mask[i].sum() == length
        torch.testing.assert_close(together.tokens[i, :length], alone.tokens[0], atol=1e-5, rtol=0)
        assert not together.tokens[i, length:].any()
        torch.testing.assert_close(together.pooled[i], alone.pooled[0], atol=1e-5, rtol=0)


def test_the_transformer_equals_torchs_own_encoder():
    encoder = transformer(depth=1).eval()
    block = encoder.blocks[0]
    theirs = torch.nn.TransformerEncoderLayer(
        16, 2, 64, dropout=0, activation="gelu", batch_first=True, norm_first=True
    ).eval()
    state = {
        "self_attn.in_proj_weight": block.to_qkv.weight,
        "self_attn.in_proj_bias": block.to_qkv.bias,
    }
    names = {
        "self_attn.out_proj": "to_out",
        "linear1": "widen",
        "linear2": "narrow",
        "norm1": "norm_attention",
        "norm2": "norm_mlp",
    }
    for name, own in names.items():
        state |= {f"{name}.{k}": v for k, v in getattr(block, own).state_dict().items()}
    theirs.load_state_dict(state)
    ids, mask = encoder.tokenizer(["a red ring", "star"])
    x = encoder.embedding(ids) + encoder.position[: ids.shape[1]]
    expected = encoder.norm(theirs(x, src_key_padding_mask=~mask)) * mask.unsqueeze(-1)
    features = encoder.encode(["a red ring", "star"])
    torch.testing.assert_close(features.tokens, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(features.pooled, expected.sum(1) / torch.tensor([[4.0], [2.0]]))


def test_the_lstm_reads_backwards_from_the_last_real_token():
    encoder = lstm()
    x = encoder.embedding(encoder.tokenizer(["red star"])[0])
    states, (last, _) = encoder.lstm(x)
    features = encoder.encode(["red star", "a ring above a star"])
    torch.testing.assert_close(features.tokens[0, :3], states[0])
    torch.testing.assert_close(features.pooled[0], torch.cat([last[0, 0], last[1, 0]]))
    torch.testing.assert_close(features.pooled[0, 8:], states[0, 0, 8:])


def test_end_pooling_takes_the_end_token():
    encoder = transformer(pooling="end")
    features = encoder.encode(["red", "a red ring"])
    torch.testing.assert_close(features.pooled[0], features.tokens[0, 1])
    torch.testing.assert_close(features.pooled[1], features.tokens[1, 3])


@pytest.mark.parametrize("make", ENCODERS)
def test_every_parameter_learns_from_captions_and_null(make):
    encoder = make()
    weights = torch.randn(16)
    text = encoder.encode(["a red ring", ""])
    null = encoder.null(3)
    assert null.tokens.shape == (3, 1, 16) and null.mask.all()
    ((text.tokens * weights).sum() + (null.pooled * weights).sum()).backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("make", ENCODERS)
def test_null_is_neither_the_empty_caption_nor_padding(make):
    encoder = make()
    assert not torch.allclose(encoder.null(1).pooled, encoder.encode([""]).pooled, atol=1e-3)
    assert not torch.allclose(encoder.null(1).pooled, torch.zeros(1, 16), atol=1e-3)


@pytest.mark.parametrize("make", ENCODERS)
def test_dropout_acts_in_training_only(make):
    encoder = make(dropout=0.5)
    first, second = encoder.encode(["a red ring"]), encoder.encode(["a red ring"])
    assert not torch.equal(first.tokens, second.tokens)
    encoder.eval()
    first, second = encoder.encode(["a red ring"]), encoder.encode(["a red ring"])
    assert torch.equal(first.tokens, second.tokens)


def test_word_order_matters_and_the_mean_sees_it():
    encoder = transformer().eval()
    one, other = encoder.encode(["red ring blue star", "blue ring red star"]).pooled
    assert (one - other).abs().max() > 1e-3


def test_fingerprint_tells_layouts_apart_and_not_weights():
    encoder = transformer()
    layouts = [
        encoder,
        transformer(heads=4),
        transformer(pooling="end"),
        transformer(max_length=7),
        transformer(dropout=0.1),
        WordTransformer(vocabulary=WORDS[::-1], width=16, depth=2, heads=2, max_length=6),
        lstm(),
    ]
    assert len({e.fingerprint for e in layouts}) == len(layouts)
    before = encoder.fingerprint
    torch.nn.init.zeros_(encoder.position)
    assert encoder.fingerprint == before


# ---- other scripts, and what is lost ----


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("红色的圆 on white", ["红", "色", "的", "圆", "on", "white"]),
        ("赤い丸", ["赤", "い", "丸"]),
        ("लाल वृत्त", ["लाल", "वृत्त"]),  # vowel signs and the virama stay in their word
        ("красный круг", ["красный", "круг"]),
        ("Fluß, Émile's", ["fluß", "émile", "s"]),
        ("דג̈ 2", ["דג̈", "2"]),
        ("\u0301a - \u0301b", ["a", "b"]),  # a mark without its letter
        ("🙂 x", ["x"]),
    ],
)
def test_words_of_other_scripts(caption, words):
    assert split_words(caption) == words


@given(st.text(max_size=40))
def test_ascii_and_other_captions_are_split_by_one_rule(text):
    spelled = split_words(text.encode("ascii", "ignore").decode())
    assert split_words(text.encode("ascii", "ignore").decode() + " é")[:-1] == spelled


def test_a_report_names_what_is_lost():
    encoder = transformer()
    length = encoder.max_length
    report = encoder.token_report(["a ring", "a " * (length + 4), "xyzzy", "a plugh xyzzy"])
    assert report.unread == (2,) and report.unknown_words == ("xyzzy", "plugh")
    assert report.lost == pytest.approx(5 / (2 + length + 4 + 1 + 3))
    sentence = report.losses(length)
    assert "% of all tokens are never seen" in sentence and "(xyzzy, plugh, …)" in sentence
    assert "of 1 captions no word is known" in sentence


def test_a_warning_names_the_captions_and_the_key(caplog):
    encoder = transformer()
    warn_of_losses(encoder, losses_of(encoder, ["a ring"]), "val")
    assert not caplog.records
    warn_of_losses(encoder, losses_of(encoder, ["a " * 40]), "val")
    assert "val, text encoder WordTransformer: 1 of 1 captions are cut" in caplog.text
    assert "text.encoder.max_length=41 keeps all" in caplog.text
