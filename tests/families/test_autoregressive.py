import functools
import math

import pytest
import torch

from t2ibench.autoencoders.frozen import FrozenFirstStage
from t2ibench.autoencoders.kl import KLAutoencoder
from t2ibench.autoencoders.vq import VQAutoencoder
from t2ibench.core.errors import ConfigError
from t2ibench.core.knobs import front_knob
from t2ibench.core.noise import SeededNoise
from t2ibench.core.types import Batch
from t2ibench.families.autoregressive.fast_gpt import CodeTransformer
from t2ibench.families.autoregressive.losses import next_code_loss
from t2ibench.families.autoregressive.module import AutoregressiveCodes
from t2ibench.text.word import WordTransformer

CONDITIONINGS = ("concat", "modulation", "cross_attention")
CAPTIONS = ["a red ring", "a small blue star", "", "a large green cross on white"]
WORDS = ["a", "red", "ring", "small", "blue", "star", "large", "green", "cross", "on", "white"]
SHAPE = {"latent_channels": 4, "channels": [8, 8], "blocks": 1, "stem_factor": 2}
CODES = {"encoder_kernel_size": 1, "codebook_size": 12, "codebook_decay": 0.9, "revive_below": 0.02}


def make_module(conditioning="concat", **changes):
    torch.manual_seed(0)
    autoencoder = VQAutoencoder(**SHAPE, **CODES)
    settings = {
        "text_encoder": WordTransformer(vocabulary=WORDS, width=16, depth=1, heads=2, max_length=8),
        "first_stage": FrozenFirstStage(autoencoder),
        "network": functools.partial(
            CodeTransformer, width=16, depth=2, heads=2, dropout=0.0, conditioning=conditioning
        ),
        "optimizer": functools.partial(torch.optim.AdamW, lr=3e-3),
        "resolution": 16,
        "null_text_probability": 0.25,
        "gradient_clip_norm": 1.0,
        "label_smoothing": 0.0,
        "guidance_scale": 2.0,
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
    }
    module = AutoregressiveCodes(**(settings | changes))
    optimizer = module.configure_optimizers()
    module.optimizers = lambda: optimizer
    module.manual_backward = lambda loss: loss.backward()
    return module


def make_batch(codes=None):
    images = torch.rand(4, 3, 16, 16) * 2 - 1
    targets = {} if codes is None else {"codes": codes}
    return Batch(images, CAPTIONS, torch.arange(4), targets=targets)


def all_codes(seed=0):
    """Codes that use the whole codebook, (4, 16)."""
    order = torch.randperm(64, generator=torch.Generator().manual_seed(seed))
    return (order % 12).reshape(4, 16)


def train(module, steps, codes=None):
    torch.manual_seed(1)
    return [module.training_step(make_batch(codes), i)["loss"] for i in range(steps)]


def text_of(module, captions=CAPTIONS):
    return module.text_encoder.encode(list(captions))


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_training_changes_every_parameter_and_only_those(conditioning):
    module = make_module(conditioning, null_text_probability=0.5)
    start = {n: p.detach().clone() for n, p in module.named_parameters()}
    losses = train(module, 4, all_codes())
    assert all(torch.isfinite(x) and not x.requires_grad for x in losses)
    same = {n for n, p in module.named_parameters() if torch.equal(p, start[n])}
    assert same == {n for n in start if n.startswith("first_stage.")}
    assert set(module.sampling_parameters()) == set(start) - same


def test_loss_is_cross_entropy_and_starts_at_the_uniform_guess():
    logits, codes = torch.randn(2, 5, 7), torch.randint(7, (2, 5))
    picked = logits.log_softmax(-1).gather(-1, codes[..., None])
    torch.testing.assert_close(next_code_loss(logits, codes, 0.0), -picked.mean())
    assert next_code_loss(torch.zeros(2, 5, 7), codes, 0.1).item() == pytest.approx(math.log(7))


def test_codes_from_the_cache_and_from_images_train_alike():
    module, again = make_module(), make_module()
    torch.manual_seed(1)
    batch = make_batch()
    cached = make_batch(module.first_stage.codes(batch.image))
    torch.manual_seed(2)
    direct = module.training_step(batch, 0)["loss"]
    torch.manual_seed(2)
    assert torch.equal(again.training_step(cached, 0)["loss"], direct)


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_a_code_sees_only_codes_before_it(conditioning):
    module = make_module(conditioning).eval()
    train(module, 3, all_codes())
    text, codes = text_of(module), all_codes(1)
    changed = codes.clone()
    changed[:, 7] = (changed[:, 7] + 1) % 12
    with torch.no_grad():
        before, after = module.network(codes, text), module.network(changed, text)
    torch.testing.assert_close(before[:, :8], after[:, :8])
    assert not torch.allclose(before[:, 8], after[:, 8])


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_cached_logits_equal_those_without_a_cache(conditioning):
    module = make_module(conditioning)
    train(module, 3, all_codes())
    module.eval()
    text, codes = text_of(module), all_codes(1)
    with torch.no_grad():
        expected = module.network(codes, text)
        cache = module.network.start_cache(text)
        for n in range(16):
            got = module.network.step(None if n == 0 else codes[:, n - 1], n, cache)
            torch.testing.assert_close(got, expected[:, n], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_a_sample_is_the_same_in_any_batch_and_follows_its_prompt(conditioning):
    module = make_module(conditioning)
    train(module, 10, all_codes())
    together = module.generate(CAPTIONS, SeededNoise([1, 2, 3, 4]))
    for i in (1, 2):
        alone = module.generate([CAPTIONS[i]], SeededNoise([i + 1]))
        torch.testing.assert_close(alone[0], together[i], atol=1e-4, rtol=1e-4)
    other = module.generate(CAPTIONS[::-1], SeededNoise([1, 2, 3, 4]), {"guidance_scale": 30.0})
    assert not torch.allclose(other, together)
    assert together.shape == (4, 3, 16, 16) and together.abs().max() <= 1


def test_it_learns_to_write_the_codes_that_a_caption_names():
    module = make_module(null_text_probability=0.1)
    train(module, 150, all_codes())
    drawn = module.generate(CAPTIONS, SeededNoise([1, 2, 3, 4]), {"temperature": 0.0})
    expected = module.first_stage.decode_codes(all_codes()).clamp(-1, 1)
    assert torch.allclose(drawn, expected, atol=1e-4)


def test_no_guidance_equals_guidance_of_one_by_the_formula():
    module = make_module()
    train(module, 5, all_codes())
    plain = module.generate(CAPTIONS, SeededNoise([1, 2, 3, 4]), {"guidance_scale": 1.0})
    nearly = module.generate(CAPTIONS, SeededNoise([1, 2, 3, 4]), {"guidance_scale": 1.0 + 1e-7})
    torch.testing.assert_close(plain, nearly, atol=1e-4, rtol=1e-4)


def test_knobs_are_declared_and_checked():
    module = make_module()
    assert front_knob(module.knobs).name == "guidance_scale"
    for bad in ({"temperature": 3.0}, {"top_k": 1.5}, {"top_k": 13}, {"truncation": 1.0}):
        with pytest.raises(ConfigError):
            module.generate(CAPTIONS, SeededNoise([1, 2, 3, 4]), bad)


def test_a_first_stage_without_codes_is_refused():
    stage = FrozenFirstStage(KLAutoencoder(**SHAPE))
    with pytest.raises(ConfigError, match="has no codes"):
        make_module(first_stage=stage)


def test_state_dict_is_strict():
    module, other = make_module(), make_module("modulation")
    make_module().load_state_dict(module.state_dict(), strict=True)
    with pytest.raises(RuntimeError):
        other.load_state_dict(module.state_dict(), strict=True)
