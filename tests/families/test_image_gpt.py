"""Image-GPT: published counts, transformers' logits, the authors' block, cache, completion."""

import functools
import math

import numpy as np
import pytest
import torch
from transformers import ImageGPTConfig, ImageGPTForCausalImageModeling

from t2ibench.autoencoders.frozen import FrozenFirstStage
from t2ibench.autoencoders.palette import PaletteAutoencoder
from t2ibench.cli.compose import compose_config
from t2ibench.core.edits import Inpainting
from t2ibench.core.errors import ConfigError
from t2ibench.core.noise import SeededNoise
from t2ibench.core.types import Batch, TextFeatures
from t2ibench.families.autoregressive.image_gpt import Block, ImageGPT
from t2ibench.families.autoregressive.palette_module import AutoregressivePalette
from t2ibench.text.word import WordTransformer

CONDITIONINGS = ("concat", "modulation", "cross_attention")
CAPTIONS = ["a red ring", "a small blue star", "", "a large green cross on white"]
WORDS = sorted(set(" ".join(CAPTIONS).split()))
COLOURS, SIDE = 27, 6
PUBLISHED = {"paper": 76_682_240, "paper_m": 455_489_536, "paper_l": 1_362_914_304}


def network(conditioning="concat", **changes):
    shape = {"codebook_size": COLOURS, "length": SIDE**2, "text_width": 16}
    shape |= {"text_length": 8, "width": 16, "depth": 2, "heads": 2}
    shape |= {"bias": True, "conditioning": conditioning}
    return ImageGPT(**(shape | changes))


def stirred(module, spread=0.3):
    torch.manual_seed(0)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(spread * torch.randn_like(p))
    return module.eval()


@pytest.fixture
def module():
    torch.manual_seed(0)
    made = AutoregressivePalette(
        text_encoder=WordTransformer(vocabulary=WORDS, width=16, depth=1, heads=2, max_length=8),
        first_stage=FrozenFirstStage(PaletteAutoencoder(colours=COLOURS)),
        network=functools.partial(
            ImageGPT, width=16, depth=2, heads=2, bias=True, conditioning="concat"
        ),
        optimizer=functools.partial(torch.optim.Adam, lr=3e-3),
        resolution=SIDE,
        null_text_probability=0.25,
        gradient_clip_norm=0.0,
        label_smoothing=0.0,
        guidance_scale=2.0,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
    )
    return stirred(made, 0.1)


def features(count=4):
    torch.manual_seed(2)
    mask = torch.arange(5) < torch.tensor([[5], [3], [1], [4]])
    return TextFeatures(torch.randn(4, 5, 16), mask, torch.randn(4, 16))[:count]


def pixels(count=4, seed=0):
    return torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("size, expected", PUBLISHED.items())
def test_weights_are_as_many_as_published(size, expected):
    model = compose_config(["model=autoregressive/image_gpt", f"size={size}"])["model"]
    given = {k: v for k, v in model["module"]["network"].items() if not k.startswith("_")}
    with torch.device("meta"):
        made = ImageGPT(codebook_size=512, length=1024, text_width=8, text_length=8, **given)
        assert count(made) - count(made.prefix) == expected
        if size == "paper":
            bare = ImageGPT(
                codebook_size=512,
                length=1024,
                text_width=8,
                text_length=8,
                **given | {"bias": False},
            )
            assert count(bare) - count(bare.prefix) == 76_571_648


def test_logits_are_those_of_transformers():
    """With no text to attend to: a prefix that is padding alone is not seen."""
    ours = stirred(network("modulation"), 0.2).double()
    config = ImageGPTConfig(
        vocab_size=COLOURS + 1, n_positions=SIDE**2, n_embd=16, n_layer=2, n_head=2
    )
    theirs = ImageGPTForCausalImageModeling(config).eval().double()
    named = {
        "transformer.wte.weight": torch.cat([ours.code.weight, ours.start[None]]),
        "transformer.wpe.weight": ours.position,
        "transformer.ln_f.weight": ours.norm.weight,
        "lm_head.weight": ours.head.weight,
    }
    for i, block in enumerate(ours.blocks):
        torch.nn.init.zeros_(block.text.out.weight)
        torch.nn.init.zeros_(block.text.out.bias)
        at = f"transformer.h.{i}."
        named |= {f"{at}ln_1.weight": block.norm_attention.weight}
        named |= {f"{at}ln_2.weight": block.norm_mlp.weight}
        for name, layer in (
            ("attn.c_attn", block.to_qkv),
            ("attn.c_proj", block.to_out),
            ("mlp.c_fc", block.expand),
            ("mlp.c_proj", block.contract),
        ):
            named |= {f"{at}{name}.weight": layer.weight.T, f"{at}{name}.bias": layer.bias}
    missing, surplus = theirs.load_state_dict(named, strict=False)
    assert not surplus and all(name.endswith("attn.bias") for name in missing)
    codes = torch.randint(COLOURS, (3, SIDE**2))
    shifted = torch.cat([torch.full((3, 1), COLOURS), codes[:, :-1]], 1)
    with torch.no_grad():
        expected = theirs(input_ids=shifted).logits
        found = ours(codes, features(3).to(torch.float64))
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)


def test_a_block_is_the_authors():
    """Their rules in numpy: norm without mean, heads' projections apart, no biases."""
    torch.manual_seed(0)
    block = stirred(Block(8, 2, 1, 4, "concat", bias=False)).double()
    x = torch.randn(1, 5, 8).double()
    with torch.no_grad():
        found = block(x, features(1), None)[0].numpy()
    weights = {name: p.detach().numpy() for name, p in block.named_parameters()}

    def norm(h, gain):
        return h / np.sqrt((h**2).mean(-1, keepdims=True) + 1e-5) * gain

    h = norm(x[0].numpy(), weights["norm_attention.weight"])
    q, k, v = np.split(h @ weights["to_qkv.weight"].T, 3, axis=1)
    heads = []
    for e in (slice(0, 4), slice(4, 8)):
        scores = q[:, e] @ k[:, e].T / math.sqrt(4)
        scores = np.where(np.tri(5) > 0, scores, -1e10)
        share = np.exp(scores - scores.max(1, keepdims=True))
        heads.append(share / share.sum(1, keepdims=True) @ v[:, e])
    y = x[0].numpy() + np.concatenate(heads, 1) @ weights["to_out.weight"].T
    h = norm(y, weights["norm_mlp.weight"]) @ weights["expand.weight"].T
    y = y + h / (1 + np.exp(-1.702 * h)) @ weights["contract.weight"].T
    np.testing.assert_allclose(found, y, rtol=1e-10)


@torch.no_grad()
@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_cached_logits_equal_those_without_a_cache(conditioning):
    made, text = stirred(network(conditioning)), features()
    codes = torch.randint(COLOURS, (4, SIDE**2))
    expected, cache = made(codes, text), made.start_cache(text)
    for n in range(SIDE**2):
        found = made.step(codes[:, n - 1] if n else None, n, cache)
        torch.testing.assert_close(found, expected[:, n], atol=2e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_a_pixel_sees_all_before_it_and_none_else(conditioning):
    made, text = stirred(network(conditioning)), features()
    codes = torch.randint(COLOURS, (4, SIDE**2))
    changed = codes.clone()
    changed[:, 9] = (changed[:, 9] + 1) % COLOURS
    before, after = made(codes, text), made(changed, text)
    torch.testing.assert_close(before[:, :10], after[:, :10], atol=1e-6, rtol=0)
    assert ((before - after)[:, 10:].abs().amax((0, 2)) > 1e-5).all()
    # Padding is not read, real words are.
    padded = TextFeatures(text.tokens.where(text.mask[..., None], 7.0), text.mask, text.pooled)
    torch.testing.assert_close(made(codes, padded), before)
    other = TextFeatures(text.tokens + 1, text.mask, text.pooled + 1)
    assert not torch.allclose(made(codes, other), before, atol=1e-4)


@torch.no_grad()
def test_the_likelihood_is_of_palette_indices(module):
    batch = Batch(pixels(), CAPTIONS, torch.arange(4))
    codes, text = module.first_stage.codes(batch.image), module.encode_text(batch)
    found = module.likelihood(batch)
    assert (found.of, found.bound, found.dimensions) == ("codes", False, SIDE**2)
    logits, nats = module.network(codes, text), torch.zeros(4)
    for i in range(SIDE**2):
        for b in range(4):
            nats[b] -= logits[b, i].log_softmax(0)[codes[b, i]]
    torch.testing.assert_close(found.nats, nats, rtol=1e-5, atol=1e-4)
    losses = module.validation_losses(batch)
    torch.testing.assert_close(losses["loss"], nats.mean() / SIDE**2)
    assert not torch.equal(losses["loss"], losses["loss_without_text"])
    # An image in colours of the palette costs the same as one that lies beside it.
    snapped = Batch(module.first_stage.decode_codes(codes), CAPTIONS, batch.index)
    assert torch.equal(module.likelihood(snapped).nats, found.nats)


def halves(count=4):
    lower = torch.zeros(count, 1, SIDE, SIDE, dtype=torch.bool)
    lower[:, :, SIDE // 2 :] = True
    return lower


def test_completion_keeps_what_is_known_and_reads_it(module):
    image, mask = pixels(), halves()
    noise = [1, 2, 3, 4]
    found = module.generate(CAPTIONS, SeededNoise(noise), edit=Inpainting(image, mask))
    assert torch.equal(found[~mask.expand_as(found)], image[~mask.expand_as(found)])
    codes = module.first_stage.codes(found)
    drawn = module.first_stage.decode_codes(codes)
    torch.testing.assert_close(found[mask.expand_as(found)], drawn[mask.expand_as(found)])
    other = module.generate(CAPTIONS, SeededNoise(noise), edit=Inpainting(pixels(seed=1), mask))
    assert not torch.equal(other[:, :, SIDE // 2 :], found[:, :, SIDE // 2 :])
    alone = module.generate(CAPTIONS[2:3], SeededNoise([3]), edit=Inpainting(image[2:3], mask[2:3]))
    assert torch.equal(alone[0], found[2])


def test_completion_of_a_sample_s_own_half_gives_the_sample(module):
    """Its known half is what sampling would have drawn, and each pixel has its own number."""
    sample = module.generate(CAPTIONS, SeededNoise([1, 2, 3, 4]))
    again = module.generate(CAPTIONS, SeededNoise([1, 2, 3, 4]), edit=Inpainting(sample, halves()))
    assert torch.equal(again, sample)
    everything = Inpainting(pixels(), torch.ones(4, 1, SIDE, SIDE, dtype=torch.bool))
    anew = module.generate(CAPTIONS, SeededNoise([1, 2, 3, 4]), edit=everything)
    assert torch.equal(anew, sample)
    greedy = {"temperature": 0.0, "top_p": 0.5, "top_k": 3}
    kept = module.generate(
        CAPTIONS, SeededNoise([1, 2, 3, 4]), greedy, edit=Inpainting(sample, ~halves())
    )
    assert torch.equal(kept[:, :, SIDE // 2 :], sample[:, :, SIDE // 2 :])


def test_bad_input_is_refused(module):
    with pytest.raises(ConfigError, match=r"heads=3"):
        network(heads=3)
    small = Inpainting(torch.zeros(4, 3, 4, 4), torch.ones(4, 1, 4, 4, dtype=torch.bool))
    with pytest.raises(ConfigError, match="resize"):
        module.generate(CAPTIONS, SeededNoise([1, 2, 3, 4]), edit=small)
