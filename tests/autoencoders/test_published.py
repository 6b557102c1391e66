import pytest
import torch
from diffusers import AutoencoderKL, VQModel

from t2ibench.autoencoders.codebooks import codebook_loss
from t2ibench.autoencoders.frozen import FrozenFirstStage
from t2ibench.autoencoders.published import PublishedKL, PublishedVQ
from t2ibench.core.errors import ConfigError

WHOLE = {"blocks": 2, "middle_attention": True, "groups": 32, "attention_levels": []}
CODEBOOK = {"beta": 0.25, "legacy_beta": True}
KL_LAYOUTS = {
    "kl-f4": ((1, 2, 4), 3, [], 55_312_063),
    "kl-f8": ((1, 2, 4, 4), 4, [], 83_653_863),
    "kl-f16": ((1, 1, 2, 2, 4), 16, [4], 69_610_963),
    "kl-f32": ((1, 1, 2, 2, 4, 4), 64, [4, 5], 103_880_131),
}
VQ_LAYOUTS = {
    "vq-f4": ((1, 2, 4), 3, [], 8192, 55_322_782),
    "vq-f8": ((1, 2, 2, 4), 4, [3], 16384, 67_717_295),
    "vq-f8-n256": ((1, 2, 2, 4), 4, [3], 256, 67_652_783),
    "vq-f16": ((1, 1, 2, 2, 4), 8, [4], 16384, 69_593_371),
    "taming f16, 1024 codes": ((1, 1, 2, 2, 4), 256, [4], 1024, 72_141_699),
    "taming f16, 16384 codes": ((1, 1, 2, 2, 4), 256, [4], 16384, 76_073_859),
}
TINY = {"channels": [8, 16, 16], "blocks": 1, "groups": 4, "middle_attention": True}


def count(module):
    return sum(p.numel() for p in module.parameters())


def widths(multipliers):
    return [128 * m for m in multipliers]


def blocks_of(kind, total, attention_levels):
    """diffusers' names of the levels' blocks, in its order for ``kind``."""
    order = range(total) if kind == "Down" else reversed(range(total))
    coder = "Encoder" if kind == "Down" else "Decoder"
    return tuple(f"{'Attn' if i in attention_levels else ''}{kind}{coder}Block2D" for i in order)


def reference(kind, model_class, attention_levels, latent_channels, **more):
    torch.manual_seed(0)
    return model_class(
        down_block_types=blocks_of("Down", 3, attention_levels),
        up_block_types=blocks_of("Up", 3, attention_levels),
        block_out_channels=TINY["channels"],
        layers_per_block=TINY["blocks"],
        norm_num_groups=TINY["groups"],
        latent_channels=latent_channels,
        **more,
    ).eval()


@pytest.mark.parametrize("name", KL_LAYOUTS)
def test_kl_layouts_have_the_published_counts(name):
    multipliers, latent_channels, attention, expected = KL_LAYOUTS[name]
    with torch.device("meta"):
        model = PublishedKL(
            latent_channels=latent_channels,
            channels=widths(multipliers),
            **(WHOLE | {"attention_levels": attention}),
        )
    assert count(model) == expected
    assert model.spatial_factor == int(name.split("f")[-1])


def test_kl_f8_has_the_published_parts():
    with torch.device("meta"):
        model = PublishedKL(latent_channels=4, channels=widths((1, 2, 4, 4)), **WHOLE)
    assert len(model.state_dict()) == 248
    assert count(model.encoder) + count(model.quant_conv) == 34_163_592 + 72
    assert count(model.decoder) == 49_490_179


@pytest.mark.parametrize("name", VQ_LAYOUTS)
def test_vq_layouts_have_the_published_counts(name):
    multipliers, latent_channels, attention, codebook_size, expected = VQ_LAYOUTS[name]
    with torch.device("meta"):
        model = PublishedVQ(
            latent_channels=latent_channels,
            channels=widths(multipliers),
            codebook_size=codebook_size,
            **(WHOLE | CODEBOOK | {"attention_levels": attention}),
        )
    assert count(model) == expected


def test_vq_f4_without_attention_has_the_published_count():
    with torch.device("meta"):
        model = PublishedVQ(
            latent_channels=3,
            channels=widths((1, 2, 4)),
            codebook_size=8192,
            **(WHOLE | CODEBOOK | {"middle_attention": False}),
        )
    assert count(model) == 53_219_486


@pytest.mark.parametrize("attention_levels", [[], [2], [1, 2]])
def test_kl_is_diffusers(attention_levels):
    theirs = reference("kl", AutoencoderKL, attention_levels, 4)
    ours = PublishedKL(latent_channels=4, attention_levels=attention_levels, **TINY)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    images = torch.rand(2, 3, 16, 24) * 2 - 1
    with torch.no_grad():
        expected = theirs.encode(images).latent_dist
        mean, log_variance = ours.posterior(images)
        torch.testing.assert_close(mean, expected.mean, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(log_variance, expected.logvar, atol=1e-5, rtol=1e-5)
        latents = torch.randn(2, 4, 4, 6)
        torch.testing.assert_close(
            ours.decode(latents), theirs.decode(latents).sample, atol=1e-5, rtol=1e-5
        )


def test_log_variance_is_kept_in_the_published_range():
    model = PublishedKL(latent_channels=2, attention_levels=[], **TINY)
    with torch.no_grad():
        model.quant_conv.weight.zero_()
        model.quant_conv.bias.copy_(torch.tensor([0.0, 0.0, -99.0, 99.0]))
        log_variance = model.posterior(torch.zeros(1, 3, 8, 8))[1]
    assert log_variance.amin().item() == -30 and log_variance.amax().item() == 20


@pytest.mark.parametrize("attention_levels", [[], [2]])
def test_vq_is_diffusers(attention_levels):
    theirs = reference("vq", VQModel, attention_levels, 3, num_vq_embeddings=32)
    # Codes as far apart as latents are, so that many of them are in use.
    torch.nn.init.normal_(theirs.quantize.embedding.weight)
    ours = PublishedVQ(
        latent_channels=3,
        attention_levels=attention_levels,
        codebook_size=32,
        **(TINY | CODEBOOK),
    )
    ours.load_state_dict(theirs.state_dict(), strict=True)
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(
            ours.encode(images), theirs.encode(images).latents, atol=1e-5, rtol=1e-5
        )
        latents = torch.randn(2, 3, 4, 4)
        expected = theirs.quantize(latents)[2][2].reshape(2, 16)
        assert torch.equal(ours.quantise(latents)[1], expected)
        assert len(expected.unique()) > 8
        torch.testing.assert_close(
            ours.decode(latents), theirs.decode(latents).sample, atol=1e-5, rtol=1e-5
        )
        torch.testing.assert_close(
            ours.decode_vectors(latents),
            theirs.decode(latents, force_not_quantize=True).sample,
            atol=1e-5,
            rtol=1e-5,
        )


def test_codebook_loss_is_diffusers_with_beta_at_either_term():
    from diffusers.models.autoencoders.vae import VectorQuantizer

    latents = torch.randn(2, 3, 4, 4)
    for legacy in (True, False):
        theirs = VectorQuantizer(16, 3, beta=0.25, legacy=legacy)
        vectors, expected, _ = theirs(latents)
        ours = codebook_loss(latents, vectors, beta=0.25, legacy=legacy)
        torch.testing.assert_close(ours, expected)
    z = torch.randn(1, 2, 2, 2, requires_grad=True)
    e = torch.randn(1, 2, 2, 2, requires_grad=True)
    codebook_loss(z, e, beta=0.25, legacy=True).backward()
    torch.testing.assert_close(e.grad, -0.25 * z.grad)


def tiny_vq():
    torch.manual_seed(0)
    return PublishedVQ(
        latent_channels=3, attention_levels=[2], codebook_size=16, **(TINY | CODEBOOK)
    )


def tiny_kl():
    torch.manual_seed(0)
    return PublishedKL(latent_channels=4, attention_levels=[2], **TINY)


@pytest.mark.parametrize("make", [tiny_kl, tiny_vq])
def test_the_training_pass_reaches_every_parameter(make):
    model = make()
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    made = model.reconstruct(images)
    ((made.images - images).abs().mean() + made.penalty).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert model.last_layer is model.decoder.conv_out.weight


def test_a_published_scale_multiplies_latents():
    model = tiny_kl()
    stage = FrozenFirstStage.scaled(model, 0.18215)
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(stage.encode(images), 0.18215 * model.encode(images))
        latents = torch.randn(2, 4, 4, 4)
        torch.testing.assert_close(stage.decode(latents), model.decode(latents / 0.18215))
    torch.testing.assert_close(stage.latent_scale, torch.full((4,), 0.18215))
    with pytest.raises(ConfigError, match="latent_scale=0"):
        FrozenFirstStage.scaled(model, 0.0)


def test_codes_of_a_frozen_vq_decode_to_what_its_latents_do():
    stage = FrozenFirstStage.scaled(tiny_vq(), 2.0)
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    codes = stage.codes(images)
    assert codes.shape == (2, 16) and stage.codebook_size == 16
    with torch.no_grad():
        expected = stage.decode(stage.encode(images))
        torch.testing.assert_close(stage.decode_codes(codes), expected, atol=1e-5, rtol=1e-5)


def test_impossible_layouts_are_refused():
    for change, message in (
        ({"channels": []}, "at least one level"),
        ({"groups": 16}, "8 is not a multiple of groups=16"),
        ({"attention_levels": [3]}, "no level 3"),
    ):
        layout = {"latent_channels": 4, "attention_levels": []} | TINY | change
        with pytest.raises(ConfigError, match=message):
            PublishedKL(**layout)
