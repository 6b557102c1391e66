"""The masked family: what it learns from, how it samples, edits and larger canvases."""

import functools
import math

import pytest
import torch

from t2ibench.autoencoders.frozen import FrozenFirstStage
from t2ibench.autoencoders.kl import KLAutoencoder
from t2ibench.autoencoders.vq import VQAutoencoder
from t2ibench.core.edits import ImageToImage, Inpainting, PromptMixing, extended
from t2ibench.core.errors import ConfigError
from t2ibench.core.knobs import front_knob
from t2ibench.core.noise import SeededNoise
from t2ibench.core.types import Batch
from t2ibench.families.masked.editing import (
    fill_in_windows,
    forgotten_codes,
    grid_of,
    painted_codes,
    window_places,
)
from t2ibench.families.masked.losses import masked_code_loss
from t2ibench.families.masked.maskgit import MaskGIT
from t2ibench.families.masked.module import MaskedCodes
from t2ibench.families.masked.muse import Muse
from t2ibench.samplers.masked import MASKED
from t2ibench.text.word import WordTransformer

CAPTIONS = ["a red ring", "a small blue star", "", "a large green cross on white"]
WORDS = ["a", "red", "ring", "small", "blue", "star", "large", "green", "cross", "on", "white"]
SHAPE = {"latent_channels": 4, "channels": [8, 8], "blocks": 1, "stem_factor": 2}
CODES = {"encoder_kernel_size": 1, "codebook_size": 12, "codebook_decay": 0.9, "revive_below": 0.02}
SIDE = 4
DEFAULTS = {
    "resolution": 16,
    "null_text_probability": 0.25,
    "gradient_clip_norm": 1.0,
    "mask_schedule": "cosine",
    "least_mask_rate": 0.0,
    "label_smoothing": 0.0,
    "guidance_scale": 2.0,
    "guidance_growth": "rising",
    "num_steps": 5,
    "sampling_schedule": "cosine",
    "order": "confidence",
    "temperature": 1.0,
    "choice_temperature": 1.0,
}


def make_module(network=Muse, conditioning="cross_attention", dropout=0.0, width=16, **changes):
    torch.manual_seed(0)
    settings = DEFAULTS | {
        "text_encoder": WordTransformer(vocabulary=WORDS, width=16, depth=1, heads=2, max_length=8),
        "first_stage": FrozenFirstStage(VQAutoencoder(**SHAPE, **CODES)),
        "network": functools.partial(
            network, width=width, depth=2, heads=2, dropout=dropout, conditioning=conditioning
        ),
        "optimizer": functools.partial(torch.optim.AdamW, lr=3e-3),
    }
    module = MaskedCodes(**(settings | changes))
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


def drawn_codes(module, knobs=None):
    """Codes that sampling decodes."""
    found, decode = [], module.decode
    module.decode = lambda codes, grid: found.append(codes) or decode(codes, grid)
    module.generate(CAPTIONS, SeededNoise([1, 2, 3, 4]), knobs)
    module.decode = decode
    return found[0]


def pictures(count=2, height=16, width=16):
    stream = torch.Generator().manual_seed(7)
    return torch.rand(count, 3, height, width, generator=stream) * 2 - 1


def left_half(of):
    mask = torch.zeros(len(of), 1, *of.shape[-2:], dtype=torch.bool)
    mask[..., : of.shape[-1] // 2] = True
    return mask


@pytest.fixture(scope="module")
def module():
    made = make_module()
    train(made, 10, all_codes())
    return made.eval()


class TestTraining:
    def test_the_loss_is_of_masked_codes_alone_and_each_image_counts_the_same(self):
        logits, codes = torch.randn(2, 5, 7), torch.randint(7, (2, 5))
        masked = torch.tensor([[1, 0, 0, 0, 0], [1, 1, 0, 1, 1]], dtype=torch.bool)
        picked = -logits.log_softmax(-1).gather(-1, codes[..., None])[..., 0]
        expected = (picked[0, 0] + picked[1, [0, 1, 3, 4]].mean()) / 2
        torch.testing.assert_close(masked_code_loss(logits, codes, masked, 0.0), expected)
        changed = logits.masked_fill(~masked[..., None], 9.0)
        torch.testing.assert_close(masked_code_loss(changed, codes, masked, 0.0), expected)

    def test_smoothing_spreads_over_the_whole_vocabulary(self):
        logits, codes = torch.randn(2, 5, 7), torch.randint(7, (2, 5))
        everything = torch.ones(2, 5, dtype=torch.bool)
        target = torch.nn.functional.one_hot(codes, 7) * 0.9 + 0.1 / 7
        expected = -(target * logits.log_softmax(-1)).sum(-1).mean()
        torch.testing.assert_close(masked_code_loss(logits, codes, everything, 0.1), expected)

    def test_masks_hide_at_least_one_code_and_the_least_rate(self):
        codes = torch.zeros(2000, 16, dtype=torch.long)
        torch.manual_seed(0)
        counts = make_module().training_masks(codes).sum(1)
        assert counts.min() == 1 and counts.max() == 16
        # E[ceil(16 r)] lies half a code above 16 E[r] = 32 / pi.
        assert counts.double().mean().item() == pytest.approx(32 / math.pi + 0.5, abs=0.4)
        half = make_module(least_mask_rate=0.5).training_masks(codes).sum(1)
        assert half.min() == 8 and half.max() == 16

    def test_the_network_sees_no_code_that_is_masked(self):
        module, seen = make_module(), []
        module.network.register_forward_hook(lambda net, args, out: seen.append(args[0]))
        codes = all_codes()
        train(module, 1, codes)
        assert torch.equal(seen[0][seen[0] >= 0], codes[seen[0] >= 0])
        assert ((seen[0] == MASKED).sum(1) > 0).all()

    def test_codes_from_the_cache_and_from_images_train_alike(self):
        module, again = make_module(), make_module()
        torch.manual_seed(1)
        batch = make_batch()
        cached = make_batch(module.first_stage.codes(batch.image))
        torch.manual_seed(2)
        direct = module.training_step(batch, 0)["loss"]
        torch.manual_seed(2)
        assert torch.equal(again.training_step(cached, 0)["loss"], direct)

    @pytest.mark.parametrize("network", [MaskGIT, Muse])
    def test_it_learns_the_codes_that_a_caption_names(self, network):
        adam = functools.partial(torch.optim.AdamW, lr=1e-2)
        module = make_module(network, null_text_probability=0.1, optimizer=adam)
        losses = train(module, 250, all_codes())
        assert losses[-1] < losses[0] / 2
        drawn = drawn_codes(module, {"temperature": 0.0, "choice_temperature": 0.0})
        assert (drawn == all_codes()).float().mean() > 0.8

    def test_validation_is_without_randomness(self):
        noisy, batch = make_module(dropout=0.5), make_batch(all_codes())
        state = torch.random.get_rng_state()
        first, again = noisy.validation_losses(batch), noisy.validation_losses(batch)
        assert first == again and noisy.training
        assert torch.equal(torch.random.get_rng_state(), state)
        assert list(first) == [f"val_loss_masked_{rate}" for rate in (25, 50, 75, 100)]

    def test_validation_losses_of_an_image_do_not_hang_on_its_batch(self, module):
        batch = make_batch(all_codes())
        whole = module.validation_losses(batch)
        parts = [module.validation_losses(batch.rows(slice(i, i + 1))) for i in range(4)]
        for name, loss in whole.items():
            torch.testing.assert_close(loss, torch.stack([p[name] for p in parts]).mean())


class TestSampling:
    @pytest.mark.parametrize("order", ["confidence", "halton"])
    @pytest.mark.parametrize("network", [MaskGIT, Muse])
    def test_a_sample_is_the_same_in_any_batch_and_follows_its_prompt(self, network, order):
        module = make_module(network, order=order)
        train(module, 10, all_codes())
        together = module.generate(CAPTIONS, SeededNoise([1, 2, 3, 4]))
        for i in (1, 2):
            alone = module.generate([CAPTIONS[i]], SeededNoise([i + 1]))
            torch.testing.assert_close(alone[0], together[i], atol=1e-4, rtol=1e-4)
        other = module.generate(CAPTIONS[::-1], SeededNoise([1, 2, 3, 4]), {"guidance_scale": 30.0})
        assert not torch.allclose(other, together)
        assert together.shape == (4, 3, 16, 16) and together.abs().max() <= 1

    @pytest.mark.parametrize("growth", ["rising", "constant"])
    def test_guidance_is_u_plus_w_times_c_minus_u(self, module, growth):
        text, null = module.encode_captions(["a red ring"]), module.text_encoder.null(1)
        module.guidance_growth = growth
        logits_of = module.guided(text, {"guidance_scale": 3.0, "num_steps": 4}, None)
        codes = torch.full((1, 16), MASKED)
        c, u = (module.network(codes, module.network.prepare(t)) for t in (text, null))
        for step in range(4):
            w = 3.0 if growth == "constant" else 1 + 2 * (step + 1) / 4
            torch.testing.assert_close(logits_of(codes, step), u + w * (c - u))
        module.guidance_growth = "rising"

    def test_no_guidance_equals_guidance_of_one_by_the_formula(self, module):
        plain = module.generate(CAPTIONS, SeededNoise([1, 2, 3, 4]), {"guidance_scale": 1.0})
        nearly = module.generate(CAPTIONS, SeededNoise([1, 2, 3, 4]), {"guidance_scale": 1 + 1e-7})
        torch.testing.assert_close(plain, nearly, atol=1e-4, rtol=1e-4)

    def test_only_codes_are_drawn(self):
        """MaskGIT's logits have the mask token, too."""
        module = make_module(MaskGIT, "concat")
        with torch.no_grad():
            module.network.bias[-1] = 100.0
        assert drawn_codes(module).max() < 12

    def test_knobs_are_declared_and_checked(self, module):
        assert front_knob(module.knobs).name == "guidance_scale"
        for bad in ({"temperature": -1.0}, {"num_steps": 0}, {"num_steps": 1.5}, {"top_k": 3}):
            with pytest.raises(ConfigError):
                module.generate(CAPTIONS, SeededNoise([1, 2, 3, 4]), bad)

    def test_without_dropped_captions_the_noise_of_choices_is_the_knob(self):
        module = make_module(null_text_probability=0.0, guidance_scale=1.0)
        assert front_knob(module.knobs).name == "choice_temperature"
        with pytest.raises(ConfigError, match="guidance_scale is not a knob"):
            module.generate(CAPTIONS, SeededNoise([1, 2, 3, 4]), {"guidance_scale": 2.0})
        with pytest.raises(ConfigError, match=r"guidance_scale=2.0 needs a model without text"):
            make_module(null_text_probability=0.0)

    def test_a_first_stage_without_codes_is_refused(self):
        with pytest.raises(ConfigError, match="has no codes"):
            make_module(first_stage=FrozenFirstStage(KLAutoencoder(**SHAPE)))


class TestEdits:
    def test_strength_zero_gives_the_first_stages_reconstruction(self, module):
        picture, stage = pictures(), module.first_stage
        found = module.generate(CAPTIONS[:2], SeededNoise([1, 2]), edit=ImageToImage(picture, 0.0))
        torch.testing.assert_close(found, stage.decode_codes(stage.codes(picture)).clamp(-1, 1))

    def test_strength_one_forgets_the_image(self, module):
        plain = module.generate(CAPTIONS[:2], SeededNoise([1, 2]))
        edit = ImageToImage(pictures(), 1.0)
        found = module.generate(CAPTIONS[:2], SeededNoise([1, 2]), edit=edit)
        torch.testing.assert_close(found, plain)

    def test_strength_is_the_share_of_codes_that_are_drawn_anew(self):
        masked = forgotten_codes(SeededNoise([1, 2, 3]), 16, 0.3)
        assert masked.sum(1).tolist() == [5, 5, 5]
        assert not torch.equal(masked[0], masked[1])
        assert torch.equal(forgotten_codes(SeededNoise([2]), 16, 0.3)[0], masked[1])

    def test_pixels_outside_the_mask_stay_to_the_bit(self, module):
        picture = pictures()
        mask = left_half(picture)
        mask[..., 5:9] = True  # and parts of codes
        found = module.generate(CAPTIONS[:2], SeededNoise([1, 2]), edit=Inpainting(picture, mask))
        outside = ~mask.expand_as(found)
        assert torch.equal(found[outside], picture[outside])
        assert not torch.allclose(found[~outside], picture[~outside])

    def test_the_known_codes_reach_the_painted_ones(self, module):
        picture, seen = pictures(), []
        hook = module.network.register_forward_hook(lambda net, args, out: seen.append(args[0]))
        mask = left_half(picture)
        module.generate(CAPTIONS[:2], SeededNoise([1, 2]), edit=Inpainting(picture, mask))
        hook.remove()
        grids = [codes[:2].unflatten(1, (SIDE, SIDE)) for codes in seen]
        known = module.first_stage.codes(picture).unflatten(1, (SIDE, SIDE))
        assert (grids[0][..., :2] == MASKED).all()
        assert all(torch.equal(grid[..., 2:], known[..., 2:]) for grid in grids)

    def test_a_mask_of_everything_is_sampling(self, module):
        edit = Inpainting(pictures(), torch.ones(2, 1, 16, 16, dtype=torch.bool))
        found = module.generate(CAPTIONS[:2], SeededNoise([1, 2]), edit=edit)
        torch.testing.assert_close(found, module.generate(CAPTIONS[:2], SeededNoise([1, 2])))

    def test_a_code_is_painted_where_any_of_its_pixels_is(self):
        mask = torch.zeros(1, 1, 8, 12, dtype=torch.bool)
        mask[0, 0, 3, 4] = mask[0, 0, 7, 11] = True
        assert painted_codes(mask, (2, 3)).tolist() == [[False, True, False, False, False, True]]

    def test_an_edit_is_the_same_in_any_batch(self, module):
        picture = pictures()
        for edit in (
            Inpainting(picture, left_half(picture)),
            ImageToImage(picture, 0.5),
            extended(picture, (12, 0, 4, 0)),
        ):
            together = module.generate(CAPTIONS[:2], SeededNoise([1, 2]), edit=edit)
            alone = module.generate(CAPTIONS[1:2], SeededNoise([2]), edit=edit.rows(slice(1, 2)))
            torch.testing.assert_close(alone[0], together[1], atol=1e-4, rtol=1e-4)

    def test_a_second_prompt_takes_over(self, module):
        text = module.encode_captions(CAPTIONS[1::-1])
        prompts, seeds = CAPTIONS[:2], [1, 2]
        first, second = (module.generate(p, SeededNoise(seeds)) for p in (prompts, prompts[::-1]))
        for switch, expected in ((1.0, first), (0.0, second)):
            edit = PromptMixing(text, switch, "step")
            found = module.generate(prompts, SeededNoise(seeds), edit=edit)
            torch.testing.assert_close(found, expected)


class TestCanvases:
    @pytest.mark.parametrize("sides", [(4, 0, 0, 0), (0, 12, 0, 0), (8, 4, 20, 0)])
    def test_outpainting_keeps_the_picture(self, module, sides):
        picture = pictures(1)
        left, right, top, bottom = sides
        found = module.generate(CAPTIONS[:1], SeededNoise([1]), edit=extended(picture, sides))
        assert found.shape == (1, 3, 16 + top + bottom, 16 + left + right)
        assert torch.equal(found[..., top : top + 16, left : left + 16], picture)

    def test_larger_sizes_are_sampled_and_belong_to_their_seed(self, module):
        found = module.generate(CAPTIONS[:2], SeededNoise([1, 2]), size=(16, 28))
        assert found.shape == (2, 3, 16, 28)
        alone = module.generate(CAPTIONS[1:2], SeededNoise([2]), size=(16, 28))
        torch.testing.assert_close(alone[0], found[1], atol=1e-4, rtol=1e-4)

    @pytest.mark.parametrize("size", [(12, 16), (16, 18)])
    def test_other_sizes_are_refused_in_one_sentence(self, module, size):
        with pytest.raises(ConfigError, match=r"multiples of 4 from 16 on; 16x(16|20|16) is near"):
            module.generate(CAPTIONS[:1], SeededNoise([1]), size=size)
        assert grid_of((16, 20), 4, 4) == (4, 5)

    @pytest.mark.parametrize("grid", [(4, 4), (4, 5), (7, 10), (4, 13)])
    def test_windows_cover_the_grid_and_overlap_by_half(self, grid):
        places = window_places(grid, 4)
        assert places.unique().tolist() == list(range(grid[0] * grid[1]))
        rows, columns = places // grid[1], places % grid[1]
        for axis in (rows, columns):
            assert ((axis.amax(1) - axis.amin(1)) == 3).all()
            starts = axis.amin(1).unique()
            assert len(starts) == 1 or starts.diff().max() <= 2

    def test_the_window_that_knows_most_comes_first(self):
        codes = torch.full((2, 4, 12), MASKED)
        codes[0, :, :4] = 1  # grows to the right
        codes[1, :, 8:] = 1  # grows to the left
        seen = []

        def fill(window):
            seen.append((window == MASKED).sum(1).tolist())
            return window.masked_fill(window == MASKED, len(seen) + 1)

        filled = fill_in_windows(codes.flatten(1), (4, 12), 4, fill).unflatten(1, (4, 12))
        assert seen == [[8, 8]] * 4
        assert filled[0, 0].tolist() == [1] * 4 + [2, 2, 3, 3, 4, 4, 5, 5]
        assert torch.equal(filled[1], filled[0].flip(1))


def test_state_dict_is_strict():
    module, other = make_module(), make_module(conditioning="modulation")
    make_module().load_state_dict(module.state_dict(), strict=True)
    with pytest.raises(RuntimeError):
        other.load_state_dict(module.state_dict(), strict=True)
