import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from t2ibench.core.edits import (
    ImageToImage,
    Inpainting,
    Interpolation,
    PromptMixing,
    extended,
    lerp_text,
    slerp,
)
from t2ibench.core.errors import ConfigError
from t2ibench.core.noise import SeededNoise
from t2ibench.core.types import TextFeatures


def features(lengths, width=4, seed=0):
    longest = max(lengths)
    mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
    stream = torch.Generator().manual_seed(seed)
    tokens = torch.randn(len(lengths), longest, width, generator=stream) * mask[..., None]
    return TextFeatures(tokens, mask, tokens.sum(1))


@given(st.floats(0, 1))
def test_slerp_walks_the_great_circle(weight):
    a, b = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 3.0]])
    angle = torch.tensor(weight * torch.pi / 2)
    want = 3 * torch.stack([angle.cos(), angle.sin()])[None]
    torch.testing.assert_close(slerp(a, b, weight), want.float(), atol=1e-6, rtol=0)


def test_slerp_of_parallel_samples_is_the_straight_line():
    a = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(slerp(a, 2 * a, 0.25), 1.25 * a)
    assert torch.equal(slerp(a, a, 0.5), a)


def test_interpolated_noise_keeps_its_length():
    a, b = SeededNoise([1]).normal(4, 32, 32), SeededNoise([2]).normal(4, 32, 32)
    assert float(slerp(a, b, 0.5).std()) == pytest.approx(1, abs=0.03)
    assert float(torch.lerp(a, b, 0.5).std()) < 0.75


def test_text_interpolation_ends_at_its_captions_and_covers_both():
    a, b = features([2, 3]), features([5, 1], seed=1)
    for weight, end in ((0.0, a), (1.0, b)):
        found = lerp_text(a, b, weight)
        length = end.tokens.shape[1]
        assert torch.equal(found.mask[:, :length], end.mask) and not found.mask[:, length:].any()
        torch.testing.assert_close(found.tokens[:, :length], end.tokens)
    assert lerp_text(a, b, 0.5).mask.sum(1).tolist() == [5, 3]


def test_rows_of_an_edit():
    edit = Interpolation(features([2, 3, 1]), SeededNoise([4, 5, 6]), 0.5).rows(slice(1, 3))
    assert edit.noise.seeds == [5, 6] and len(edit.text) == 2 and edit.weight == 0.5
    image = torch.arange(3.0)[:, None, None, None].expand(3, 3, 2, 2)
    assert ImageToImage(image, 0.3).rows(slice(2, 3)).image.unique().tolist() == [2.0]


def test_a_larger_canvas_is_masked_where_it_is_new():
    image = torch.rand(2, 3, 4, 6)
    edit = extended(image, (1, 2, 0, 3))
    assert edit.image.shape == (2, 3, 7, 9)
    assert torch.equal(edit.image[..., :4, 1:7], image)
    assert not edit.mask[..., :4, 1:7].any() and edit.mask.sum() == 2 * (7 * 9 - 4 * 6)


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan")])
def test_shares_outside_are_one_sentence(value):
    image, text = torch.zeros(1, 3, 4, 4), features([2])
    with pytest.raises(ConfigError, match=r"strength=.* is outside \[0, 1\]"):
        ImageToImage(image, value)
    with pytest.raises(ConfigError, match="switch="):
        PromptMixing(text, value)
    with pytest.raises(ConfigError, match="weight="):
        Interpolation(text, SeededNoise([0]), value)


def test_wrong_shapes_and_names_are_one_sentence():
    image = torch.zeros(1, 3, 4, 4)
    with pytest.raises(ConfigError, match=r"mask is \(1, 1, 4, 5\).*need \(1, 1, 4, 4\)"):
        Inpainting(image, torch.zeros(1, 1, 4, 5, dtype=torch.bool))
    with pytest.raises(ConfigError, match="by=word is unknown"):
        PromptMixing(features([2]), 0.5, by="word")
    with pytest.raises(ConfigError, match="paints nothing"):
        extended(image, (0, 0, 0, 0))
