"""Captions run up to their end token alone: equal to the whole length, and less work."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from text.tiny import OPEN_CLIP

from t2ibench.metrics.causal_text import encode_to_end_token, text_features
from t2ibench.metrics.dual_encoder import DualEncoder

WORDS = st.lists(st.sampled_from(["a", "red", "ring", "above", "stars"]), max_size=14)


@pytest.fixture(scope="module", params=["CLIP", "CustomTextCLIP", "pooled at eos", "Linear"])
def clip(request):
    """open_clip's two classes with its causal tower, and one that is pooled in another way."""
    import open_clip

    torch.manual_seed(0)
    if request.param == "CLIP":
        model = open_clip.CLIP(**OPEN_CLIP)
    else:
        more = {"Linear": {"proj_type": "linear", "proj_bias": True}}.get(request.param, {})
        text = OPEN_CLIP["text_cfg"] | more
        if request.param == "pooled at eos":
            text |= {"pool_type": "last"}
        model = open_clip.CustomTextCLIP(**(OPEN_CLIP | {"text_cfg": text}))
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


@given(st.lists(WORDS, min_size=1, max_size=5))
@settings(max_examples=20)
def test_features_equal_those_of_the_whole_length(clip, captions):
    import open_clip

    ids = open_clip.SimpleTokenizer(context_length=12)([" ".join(words) for words in captions])
    with torch.inference_mode():
        whole, cut = clip.encode_text(ids), encode_to_end_token(clip, ids)
    assert torch.allclose(whole, cut, atol=1e-5 * float(whole.abs().max()))


def test_the_shipped_encoder_reads_captions_so():
    encoder = DualEncoder.load("shapes-clip-v1")
    captions = ["a red ring", "", "a large blue star above a small green moon on black", "x " * 99]
    with torch.inference_mode():
        whole = encoder.clip.encode_text(encoder.vocabulary(captions), normalize=True)
        seen = []
        encoder.clip.transformer.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
        assert torch.allclose(encoder.text_features(captions[:1]), whole[:1], atol=1e-5)
    assert torch.allclose(encoder.text_features(captions), whole, atol=1e-5)
    assert seen[0].shape[1] == encoder.caption_lengths(["a red ring"])[0]
    assert encoder.caption_lengths(captions)[:2] == [5, 2]


@given(st.lists(st.text("ab", max_size=9), max_size=20), st.integers(1, 7))
def test_batches_of_like_length_keep_the_order(captions, size):
    batches = []

    def lengths(batch):
        batches.append([len(caption) for caption in batch])
        return torch.tensor([[float(len(caption))] for caption in batch])

    found = text_features(lengths, captions, size, 1)
    assert found.flatten().tolist() == [len(caption) for caption in captions]
    assert [n for batch in batches for n in batch] == sorted(map(len, captions))
