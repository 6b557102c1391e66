"""What a size changes, and what it leaves: the optimiser, and the cost of a forward pass."""

from functools import partial

import pytest
import torch
from contract.models import FILES, Case

from t2ibench.evaluation.flops import count_flops
from t2ibench.nn.muon import Muon

SMALL = ("xs_narrow", "xs", "xs_wide")
MUON = [
    model
    for model, text in FILES.items()
    if "t2ibench.nn.muon.Muon" in text and "xs_narrow:" in text and "_sr" not in model
]


@pytest.mark.parametrize("model", MUON)
def test_the_optimiser_is_the_same_at_every_width(model, shared_cache):
    """AdamW is for biases, gains and a few thin matrices, in the narrowest network too."""
    for size in SMALL:
        made = Case(model, None, shared_cache, f"size={size}").module().configure_optimizers()
        by_kind = {"matrix": 0, "adam": 0}
        for optimizer in made if isinstance(made, list) else [made]:
            assert isinstance(optimizer, Muon)
            for group in optimizer.param_groups:
                by_kind[group["kind"]] += sum(p.numel() for p in group["params"])
        assert by_kind["adam"] / sum(by_kind.values()) < 0.03, (size, by_kind)


@pytest.mark.parametrize("size", SMALL)
def test_pixels_cost_what_latents_cost(size, shared_cache):
    """At 32 px, so that a budget shows both as many images."""
    forward = {}
    for model in ("diffusion/fast_pixels", "diffusion/fast_unet"):
        words = ("data.resolution=32", f"size={size}")
        module = Case(model, None, shared_cache, *words).module()
        network, stage = module.network, module.first_stage
        channels, factor = (
            (3, 1) if stage is None else (stage.latent_channels, stage.spatial_factor)
        )
        x, t = torch.zeros(1, channels, 32 // factor, 32 // factor), torch.ones(1)
        prompt = network.prepare(module.encode_captions(["a red ring"]))
        forward[model] = count_flops(partial(network, x, t, prompt))
    pixels, latents = forward.values()
    assert pixels == pytest.approx(latents, rel=0.1)
