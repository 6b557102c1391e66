import pytest
import torch
from diffusers import UNet2DConditionModel, UNet2DModel
from hypothesis import given, settings
from hypothesis import strategies as st

from t2ibench.core.errors import ConfigError
from t2ibench.core.types import TextFeatures
from t2ibench.families.diffusion.unet import PublishedUNet

STABLE_DIFFUSION = {
    "latent_channels": 4,
    "text_width": 768,
    "channels": (320, 640, 1280, 1280),
    "blocks_per_level": 2,
    "attention_levels": (0, 1, 2),
    "conditioning": "cross_attention",
    "heads": 8,
    "groups": 32,
}
DDPM = {
    "latent_channels": 3,
    "blocks_per_level": 2,
    "conditioning": "none",
    "heads": 1,
    "groups": 32,
    "epsilon": 1e-6,
    "asymmetric_padding": True,
    "time_order": "sin_cos",
}
ADM = {
    "latent_channels": 3,
    "conditioning": "none",
    "heads": 0,
    "head_width": 64,
    "groups": 32,
    "scale_shift": True,
    "residual_resize": True,
    "learned_variance": True,
    "vector_width": 1000,
}
ADM_64 = {"channels": (192, 384, 576, 768), "blocks_per_level": 3, "attention_levels": (1, 2, 3)}
ADM_256 = {
    "channels": (256, 256, 512, 512, 1024, 1024),
    "blocks_per_level": 2,
    "attention_levels": (3, 4, 5),
}


def randomise(network):
    """Random weights everywhere: zeros would hide whole branches."""
    stream = torch.Generator().manual_seed(3)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=stream) * 0.08
    return network.eval()


def text(count=2, length=5, width=24, real=None):
    stream = torch.Generator().manual_seed(4)
    tokens = torch.randn(count, length, width, generator=stream)
    mask = torch.ones(count, length, dtype=torch.bool) if real is None else real
    return TextFeatures(tokens, mask, tokens.mean(1))


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize(
    ("published", "layout"),
    [
        # Rombach et al. 2022 (LDM), released code, as diffusers counts it.
        (859_520_964, STABLE_DIFFUSION),
        (859_535_364, STABLE_DIFFUSION | {"extra_channels": 5}),
        (872_300_484, STABLE_DIFFUSION | {"text_width": 1280}),
        # Ho et al. 2020 (DDPM), as diffusers counts it (35.7M and 114M in the released code).
        (35_746_307, DDPM | {"channels": (128, 256, 256, 256), "attention_levels": (1,)}),
        (
            113_673_219,
            DDPM | {"channels": (128, 128, 256, 256, 512, 512), "attention_levels": (4,)},
        ),
        # Dhariwal and Nichol 2021 (ADM), released code, with classes.
        (295_904_454, ADM | ADM_64),
        (553_838_086, ADM | ADM_256),
        (552_814_086, ADM | ADM_256 | {"vector_width": 0}),
    ],
)
def test_published_counts(published, layout):
    with torch.device("meta"):
        network = PublishedUNet(**layout)
    assert sum(p.numel() for p in network.parameters()) == published


class TestParity:
    """A diffusers file loads strictly under its own names and gives diffusers' numbers."""

    @pytest.mark.parametrize("attention_levels", [(0, 1), (1,)])
    @pytest.mark.parametrize(("depth", "extra"), [(1, 0), (2, 5)])
    def test_with_text(self, attention_levels, depth, extra):
        kinds = ["CrossAttn" * (i in attention_levels) for i in range(3)]
        theirs = randomise(
            UNet2DConditionModel(
                sample_size=8,
                in_channels=4 + extra,
                out_channels=4,
                block_out_channels=(16, 32, 32),
                layers_per_block=2,
                cross_attention_dim=24,
                attention_head_dim=4,
                norm_num_groups=8,
                transformer_layers_per_block=depth,
                down_block_types=[f"{kind}DownBlock2D" for kind in kinds],
                up_block_types=[f"{kind}UpBlock2D" for kind in reversed(kinds)],
            )
        )
        ours = PublishedUNet(
            latent_channels=4,
            text_width=24,
            channels=(16, 32, 32),
            blocks_per_level=2,
            attention_levels=attention_levels,
            conditioning="cross_attention",
            heads=4,
            groups=8,
            depth=depth,
            extra_channels=extra,
        ).eval()
        ours.load_state_dict(theirs.state_dict(), strict=True)
        x, t, words = noise(2, 4 + extra, 8, 12), torch.tensor([3.0, 871.0]), text()
        with torch.no_grad():
            want = theirs(x, t, words.tokens).sample
            found = ours(x, t, ours.prepare(words))
        torch.testing.assert_close(found, want, atol=1e-5, rtol=1e-5)

    def test_with_padding_masked(self):
        real = torch.tensor([[True] * 5, [True] * 2 + [False] * 3])
        kinds = ("CrossAttnDownBlock2D", "DownBlock2D"), ("UpBlock2D", "CrossAttnUpBlock2D")
        theirs = randomise(
            UNet2DConditionModel(
                sample_size=8,
                block_out_channels=(16, 32),
                layers_per_block=1,
                cross_attention_dim=24,
                attention_head_dim=2,
                norm_num_groups=8,
                down_block_types=kinds[0],
                up_block_types=kinds[1],
            )
        )
        ours = PublishedUNet(
            latent_channels=4,
            text_width=24,
            channels=(16, 32),
            blocks_per_level=1,
            attention_levels=(0,),
            conditioning="cross_attention",
            heads=2,
            groups=8,
        ).eval()
        ours.load_state_dict(theirs.state_dict(), strict=True)
        x, t, words = noise(2, 4, 8, 8), torch.tensor([3.0, 500.0]), text(real=real)
        with torch.no_grad():
            want = theirs(x, t, words.tokens, encoder_attention_mask=real).sample
            found = ours(x, t, ours.prepare(words))
            ours.train()
            trained = ours(x, t, ours.prepare(words))
        torch.testing.assert_close(found, want, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(trained, want, atol=1e-5, rtol=1e-5)

    def test_ddpm(self):
        theirs = randomise(
            UNet2DModel(
                sample_size=16,
                block_out_channels=(16, 32, 32),
                layers_per_block=2,
                attention_head_dim=None,
                norm_num_groups=8,
                norm_eps=1e-6,
                downsample_padding=0,
                flip_sin_to_cos=False,
                freq_shift=1,
                down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
                up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
            )
        )
        small = {"channels": (16, 32, 32), "attention_levels": (1,), "groups": 8}
        ours = PublishedUNet(**(DDPM | small)).eval()
        ours.load_state_dict(theirs.state_dict(), strict=True)
        x, t = noise(2, 3, 16, 16), torch.tensor([0.0, 999.0])
        with torch.no_grad():
            torch.testing.assert_close(ours(x, t, []), theirs(x, t).sample, atol=1e-5, rtol=1e-5)

    def test_adm(self):
        theirs = randomise(
            UNet2DModel(
                sample_size=16,
                out_channels=6,
                block_out_channels=(16, 32),
                layers_per_block=2,
                attention_head_dim=8,
                norm_num_groups=8,
                resnet_time_scale_shift="scale_shift",
                downsample_type="resnet",
                upsample_type="resnet",
                num_class_embeds=10,
                attn_norm_num_groups=8,
                down_block_types=("AttnDownBlock2D", "AttnDownBlock2D"),
                up_block_types=("AttnUpBlock2D", "AttnUpBlock2D"),
            )
        )
        small = {"channels": (16, 32), "blocks_per_level": 2, "attention_levels": (0, 1)}
        changes = {"groups": 8, "head_width": 8, "vector_width": 10}
        ours = PublishedUNet(**(ADM | small | changes)).eval()
        weights = theirs.state_dict()
        weights["class_embedding.weight"] = weights["class_embedding.weight"].T
        ours.load_state_dict(weights, strict=True)
        x, t, labels = noise(2, 3, 16, 16), torch.tensor([7.0, 400.0]), torch.tensor([9, 2])
        one_hot = torch.nn.functional.one_hot(labels, 10).float()
        with torch.no_grad():
            want = theirs(x, t, class_labels=labels).sample
            found = ours(x, t, [], vector=one_hot)
        torch.testing.assert_close(found, want, atol=1e-5, rtol=1e-5)


def small(conditioning="cross_attention", **changes):
    torch.manual_seed(0)
    layout = {
        "latent_channels": 4,
        "text_width": 24,
        "channels": (16, 32),
        "blocks_per_level": 1,
        "attention_levels": (1,),
        "conditioning": conditioning,
        "heads": 2,
        "groups": 8,
    }
    return PublishedUNet(**(layout | changes))


@pytest.mark.parametrize("conditioning", ["cross_attention", "modulation", "concat"])
def test_text_is_read_and_prepared_once(conditioning):
    network = randomise(small(conditioning))
    x, t = noise(2, 4, 8, 8), torch.tensor([5.0, 5.0])
    contexts = network.prepare(text())
    first = network(x, t, contexts)
    torch.testing.assert_close(network(x, t, contexts), first)
    assert not torch.allclose(network(x, t, network.prepare(text(2, 7))), first, atol=1e-4)


def test_contexts_are_one_a_text_layer_in_order():
    network = randomise(small(attention_levels=(0, 1), depth=2))
    a, b = (
        network.prepare(text()),
        network.prepare(text(2, 5).where(torch.tensor([False, False]), text(2, 6))),
    )
    assert len(a) == 2 * len(network.transformers()) == 2 * (2 + 1 + 4)
    x, t = noise(2, 4, 8, 8), torch.tensor([5.0, 5.0])
    outputs = [network(x, t, [*a[:k], *b[k:]]) for k in (0, 7, 14)]
    assert not torch.allclose(outputs[0], outputs[1]) and not torch.allclose(outputs[1], outputs[2])


def test_it_starts_at_zero_and_every_weight_learns():
    network = small(attention_levels=(0, 1))
    x, t = noise(2, 4, 8, 8), torch.tensor([5.0, 700.0])
    assert network(x, t, network.prepare(text())).abs().max() == 0
    randomise(network).train()
    network(x, t, network.prepare(text())).square().mean().backward()
    still = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not still


def test_checkpointing_gives_the_same_gradients():
    found = []
    for checkpointing in (False, True):
        network = randomise(small(checkpointing=checkpointing)).train()
        out = network(noise(2, 4, 8, 8), torch.tensor([5.0, 700.0]), network.prepare(text()))
        out.square().mean().backward()
        found.append([p.grad for p in network.parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


@settings(max_examples=10, deadline=None)
@given(st.integers(2, 9), st.integers(2, 9))
def test_any_size(height, width):
    network = randomise(small(channels=(16, 16, 16), attention_levels=(2,)))
    x = noise(1, 4, height, width)
    found = network(x, torch.tensor([5.0]), network.prepare(text(1)))
    assert found.shape == x.shape and found.isfinite().all()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"channels": (16, 20)}, "multiples of groups=8"),
        ({"attention_levels": (2,)}, "no level 2 among 2"),
        ({"heads": 3}, "heads=3 does not divide a level of 32"),
        ({"conditioning": "telepathy"}, "conditioning=telepathy is not one"),
        ({"time_order": "tan"}, "time_order=tan is unknown"),
    ],
)
def test_impossible_layouts_are_one_sentence(changes, match):
    with pytest.raises(ConfigError, match=match):
        small(**changes)
