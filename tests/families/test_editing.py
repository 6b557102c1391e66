import pytest
import torch
from families.test_diffusion import CAPTIONS, make_module, train
from hypothesis import given, settings
from hypothesis import strategies as st

from t2ibench.core.edits import ImageToImage, Inpainting, Interpolation, PromptMixing, extended
from t2ibench.core.errors import ConfigError
from t2ibench.core.noise import SeededNoise
from t2ibench.families.contract import generate_pixels
from t2ibench.families.diffusion.editing import keep_known, latent_mask, random_masks
from t2ibench.samplers.prediction import add_noise


@pytest.fixture(scope="module")
def module():
    made = make_module()
    train(made)
    return made


@pytest.fixture(scope="module")
def pixel_module():
    made = make_module(first_stage=None, prediction_type="x0")
    train(made)
    return made


def images(count=2, height=32, width=32):
    stream = torch.Generator().manual_seed(7)
    return torch.rand(count, 3, height, width, generator=stream) * 2 - 1


def left_half(of):
    mask = torch.zeros(len(of), 1, *of.shape[-2:], dtype=torch.bool)
    mask[..., : of.shape[-1] // 2] = True
    return mask


class TestImageToImage:
    def test_strength_zero_gives_the_first_stages_reconstruction(self, module):
        picture = images()
        found = module.generate(CAPTIONS[:2], SeededNoise([1, 2]), edit=ImageToImage(picture, 0.0))
        stage = module.first_stage
        want = stage.decode(stage.encode(picture)).clamp(-1, 1)
        torch.testing.assert_close(found, want)

    def test_strength_one_forgets_the_image(self, module):
        plain = module.generate(CAPTIONS[:2], SeededNoise([1, 2]))
        found = module.generate(CAPTIONS[:2], SeededNoise([1, 2]), edit=ImageToImage(images(), 1.0))
        torch.testing.assert_close(found, plain)

    def test_distance_from_the_image_grows_with_strength(self, pixel_module):
        picture = images()
        far = [
            (
                pixel_module.generate(
                    CAPTIONS[:2], SeededNoise([1, 2]), edit=ImageToImage(picture, strength)
                )
                - picture
            )
            .square()
            .mean()
            for strength in (0.0, 0.25, 0.5, 1.0)
        ]
        assert far[0] == 0 and far == sorted(far) and far[1] > 0

    def test_any_size_of_image(self, module):
        picture = images(1, 48, 24)
        found = module.generate(CAPTIONS[:1], SeededNoise([1]), edit=ImageToImage(picture, 0.5))
        assert found.shape == picture.shape


class TestInpainting:
    @pytest.mark.parametrize("solver", ["dpm_solver_pp", "heun", "euler_ancestral"])
    def test_pixels_outside_the_mask_stay_to_the_bit(self, solver):
        made = make_module(solver=solver)
        train(made)
        picture = images()
        mask = left_half(picture)
        found = made.generate(CAPTIONS[:2], SeededNoise([1, 2]), edit=Inpainting(picture, mask))
        assert torch.equal(found[~mask.expand_as(found)], picture[~mask.expand_as(found)])
        assert not torch.allclose(found[mask.expand_as(found)], picture[mask.expand_as(found)])

    def test_the_known_region_reaches_the_painted_one(self, pixel_module):
        picture = images()
        mask = left_half(picture)
        made = [
            pixel_module.generate(CAPTIONS[:2], SeededNoise([1, 2]), edit=Inpainting(given, mask))
            for given in (picture, picture.where(mask, -picture))
        ]
        assert (made[0] - made[1])[mask.expand_as(picture)].abs().max() > 1e-4

    def test_a_mask_of_everything_is_sampling(self, module):
        picture = images()
        everything = torch.ones(2, 1, 32, 32, dtype=torch.bool)
        found = module.generate(
            CAPTIONS[:2], SeededNoise([1, 2]), edit=Inpainting(picture, everything)
        )
        torch.testing.assert_close(found, module.generate(CAPTIONS[:2], SeededNoise([1, 2])))

    def test_each_step_finds_the_known_region_at_its_own_level(self, module):
        levels = module.process.levels(5)
        known, eps = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
        mask = latent_mask(left_half(images()), (8, 8))
        x = torch.randn_like(known)
        for i in range(len(levels)):
            found = keep_known(known, eps, mask, levels)(x, i)
            noised = add_noise(known, eps, float(levels.alpha[i]), float(levels.sigma[i]))
            torch.testing.assert_close(found[..., :4], x[..., :4])
            torch.testing.assert_close(found[..., 4:], noised[..., 4:])

    def test_outpainting_keeps_the_picture(self, module):
        picture = images(1)
        edit = extended(picture, (8, 0, 0, 4))
        found = module.generate(CAPTIONS[:1], SeededNoise([1]), edit=edit)
        assert found.shape == (1, 3, 36, 40)
        assert torch.equal(found[..., :32, 8:], picture)

    @settings(max_examples=20, deadline=None)
    @given(st.integers(2, 9), st.integers(2, 9), st.integers(1, 4), st.data())
    def test_latent_masks_cover_every_painted_pixel(self, h, w, factor, data):
        mask = torch.zeros(1, 1, h * factor, w * factor, dtype=torch.bool)
        row = data.draw(st.integers(0, h * factor - 1))
        column = data.draw(st.integers(0, w * factor - 1))
        mask[0, 0, row, column] = True
        found = latent_mask(mask, (h, w))
        assert found.sum() == 1 and found[0, 0, row // factor, column // factor] == 1


class TestInpaintingNetwork:
    @pytest.fixture(scope="class")
    def nine(self):
        made = make_module(extra_channels=5)
        assert made.inpaints and made.network.conv_in.in_channels == 9
        train(made)
        return made

    def test_it_sees_mask_and_masked_image_in_the_published_order(self, nine):
        seen = []
        hook = nine.network.register_forward_hook(lambda net, args, out: seen.append(args[0]))
        picture = images()
        mask = left_half(picture)
        nine.generate(CAPTIONS[:2], SeededNoise([1, 2]), edit=Inpainting(picture, mask))
        hook.remove()
        masked = nine.first_stage.encode(picture * ~mask)
        for rows in seen:
            assert rows.shape[1] == 9
            torch.testing.assert_close(rows[:2, 4:5], latent_mask(mask, rows.shape[-2:]))
            torch.testing.assert_close(rows[:2, 5:], masked)
            torch.testing.assert_close(rows[:2, 4:], rows[-2:, 4:])

    def test_the_picture_matters_and_stays(self, nine):
        picture = images()
        mask = left_half(picture)
        found = nine.generate(CAPTIONS[:2], SeededNoise([1, 2]), edit=Inpainting(picture, mask))
        other = nine.generate(CAPTIONS[:2], SeededNoise([1, 2]), edit=Inpainting(-picture, mask))
        assert torch.equal(found[~mask.expand_as(found)], picture[~mask.expand_as(found)])
        assert (found - other)[mask.expand_as(found)].abs().max() > 1e-4

    def test_without_an_edit_it_paints_everything(self, nine):
        found = nine.generate(CAPTIONS[:2], SeededNoise([1, 2]))
        everything = Inpainting(images(), torch.ones(2, 1, 32, 32, dtype=torch.bool))
        again = nine.generate(CAPTIONS[:2], SeededNoise([1, 2]), edit=everything)
        torch.testing.assert_close(found, again)

    def test_training_masks_are_boxes_and_some_cover_everything(self):
        torch.manual_seed(0)
        masks = random_masks(torch.zeros(400, 3, 16, 24))
        share = masks.float().mean((1, 2, 3))
        assert masks.shape == (400, 1, 16, 24) and share.min() > 0.03
        assert 0.2 < (share == 1).float().mean() < 0.4
        for mask in masks[:50, 0]:
            rows, columns = mask.any(1), mask.any(0)
            assert torch.equal(mask, rows[:, None] & columns[None, :])
            assert (rows.int().diff().abs().sum() <= 2) and columns.int().diff().abs().sum() <= 2


class TestPrompts:
    def mixed(self, module, switch, by):
        text = module.encode_captions(CAPTIONS[1:3])
        edit = PromptMixing(text, switch, by)
        return module.generate(CAPTIONS[:2], SeededNoise([1, 2]), edit=edit)

    @pytest.mark.parametrize("by", ["step", "layer"])
    def test_ends_are_the_prompts_themselves(self, module, by):
        torch.testing.assert_close(
            self.mixed(module, 1.0, by), module.generate(CAPTIONS[:2], SeededNoise([1, 2]))
        )
        torch.testing.assert_close(
            self.mixed(module, 0.0, by), module.generate(CAPTIONS[1:3], SeededNoise([1, 2]))
        )

    @pytest.mark.parametrize("by", ["step", "layer"])
    def test_between_it_is_neither(self, module, by):
        found = self.mixed(module, 0.5, by)
        for end in (0.0, 1.0):
            assert not torch.allclose(found, self.mixed(module, end, by), atol=1e-5)

    def test_interpolation_ends_at_its_images(self, module):
        def between(weight):
            text = module.encode_captions(CAPTIONS[1:3])
            edit = Interpolation(text, SeededNoise([5, 6]), weight)
            return module.generate(CAPTIONS[:2], SeededNoise([1, 2]), edit=edit)

        first = module.generate(CAPTIONS[:2], SeededNoise([1, 2]))
        second = module.generate(CAPTIONS[1:3], SeededNoise([5, 6]))
        torch.testing.assert_close(between(0.0), first, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(between(1.0), second, atol=1e-4, rtol=1e-4)
        assert not torch.allclose(between(0.5), first, atol=1e-4)


def test_convolutional_sampling_at_another_size(module):
    found = module.generate(CAPTIONS[:2], SeededNoise([1, 2]), size=(48, 64))
    assert found.shape == (2, 3, 48, 64)
    same = module.generate(CAPTIONS[:2], SeededNoise([1, 2]), size=(32, 32))
    torch.testing.assert_close(same, module.generate(CAPTIONS[:2], SeededNoise([1, 2])))


def test_edits_do_not_depend_on_the_batch_size(module):
    picture = images(3)
    edit = Inpainting(picture, left_half(picture))
    seeds = [3, 4, 5]
    together = generate_pixels(module, CAPTIONS[:3], seeds, edit=edit)
    apart = generate_pixels(module, CAPTIONS[:3], seeds, batch_size=1, edit=edit)
    assert (together.int() - apart.int()).abs().max() <= 1


def test_bad_input_is_one_sentence_before_work(module):
    def refuse(match, **changes):
        with pytest.raises(ConfigError, match=match):
            module.generate(CAPTIONS[:1], SeededNoise([1]), **changes)

    refuse(r"size=30x33: .* multiples of 4; 32x32 is near", size=(30, 33))
    refuse("multiples of 4", edit=ImageToImage(images(1, 32, 30), 0.5))
    refuse("as many of each", edit=ImageToImage(images(2), 0.5))
    refuse(
        "no variations", edit=type("Other", (ImageToImage,), {"name": "variations"})(images(1), 0.5)
    )
    with pytest.raises(ConfigError, match=r"num_steps=0 is outside"):
        module.generate(CAPTIONS[:1], SeededNoise([1]), {"num_steps": 0})
