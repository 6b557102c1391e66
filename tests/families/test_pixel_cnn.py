"""The gated PixelCNN: what each value sees, a layer by hand, cached sampling, likelihood."""

import functools
import math

import numpy as np
import pytest
import torch

from t2ibench.cli.compose import compose_config
from t2ibench.core.edits import Inpainting
from t2ibench.core.errors import ConfigError
from t2ibench.core.noise import SeededNoise
from t2ibench.core.pixels import from_pixels, to_pixels
from t2ibench.core.types import Batch, TextFeatures
from t2ibench.evaluation.flops import count_flops
from t2ibench.families.autoregressive.pixel_cnn import GatedPixelCNN
from t2ibench.families.autoregressive.pixel_cnn_layers import GatedLayer
from t2ibench.families.autoregressive.pixel_module import AutoregressivePixels, sequence
from t2ibench.text.word import WordTransformer

CONDITIONINGS = ("concat", "modulation", "cross_attention")
CAPTIONS = ["a red ring", "a small blue star", "", "a large green cross on white"]
WORDS = sorted(set(" ".join(CAPTIONS).split()))
SIDE = 5
SEEDS = [1, 2, 3, 4]


def stirred(module, spread):
    torch.manual_seed(0)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(spread * torch.randn_like(p))
    return module.eval()


def network(conditioning="concat", **changes):
    torch.manual_seed(1)
    shape = {"side": SIDE, "text_width": 8, "width": 6, "depth": 6, "kernel_size": 3, "heads": 2}
    return stirred(GatedPixelCNN(**(shape | {"conditioning": conditioning} | changes)), 0.2)


@pytest.fixture
def module():
    torch.manual_seed(0)
    made = AutoregressivePixels(
        text_encoder=WordTransformer(vocabulary=WORDS, width=8, depth=1, heads=2, max_length=8),
        network=functools.partial(
            GatedPixelCNN, width=6, depth=3, kernel_size=3, heads=2, conditioning="concat"
        ),
        optimizer=functools.partial(torch.optim.Adam, lr=3e-3),
        resolution=SIDE,
        null_text_probability=0.25,
        gradient_clip_norm=0.0,
        guidance_scale=2.0,
        temperature=1.0,
    )
    return stirred(made, 0.2)


def features(count=4):
    torch.manual_seed(2)
    mask = torch.arange(5) < torch.tensor([[5], [3], [1], [4]])
    return TextFeatures(torch.randn(4, 5, 8), mask, torch.randn(4, 8))[:count]


def pixels(count=4, seed=0):
    chance = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, 3, SIDE, SIDE), generator=chance).byte()


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_a_value_sees_all_values_before_it_and_no_other(conditioning):
    """By its gradient, so that neither an ahead-looking weight nor a blind spot escapes."""
    made, text = network(conditioning, width=24).double(), features().to(torch.float64)
    images = from_pixels(pixels(), torch.float64).requires_grad_()
    values = sequence(made(images, text).abs().sum(1)).sum(0)
    read = [torch.autograd.grad(one, images, retain_graph=True)[0] for one in values]
    # In one of the images, for a unit of the head can be off in another.
    seen = torch.stack([(sequence(gradient) != 0).any(0) for gradient in read])
    assert torch.equal(seen, torch.ones_like(seen).tril(-1))


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_every_value_reads_the_text(conditioning):
    made, images, text = network(conditioning, width=24), from_pixels(pixels()), features()
    padded = TextFeatures(text.tokens.where(text.mask[..., None], 7.0), text.mask, text.pooled)
    other = TextFeatures(text.tokens + 1, text.mask, text.pooled + 1)
    with torch.no_grad():
        own = made(images, text)
        torch.testing.assert_close(made(images, padded), own)
        moved = (made(images, other) - own).abs().amax((0, 1))
    assert (moved > 1e-5).all()


def test_a_layer_is_the_paper_s():
    """Its formulas pixel by pixel: two stacks, the link, gates with V h, the residual."""
    torch.manual_seed(0)
    options = {"first": False, "last": False}
    layer = stirred(GatedLayer(3, 3, 4, 1, "concat", **options), 0.3).double()
    h_text = torch.randn(1, 4).double()
    text = TextFeatures(torch.zeros(1, 1, 4).double(), torch.ones(1, 1, dtype=torch.bool), h_text)
    v, h = torch.randn(2, 1, 3, 4, 4).double()
    with torch.no_grad():
        new_v, new_h = (out[0].numpy() for out in layer(v, h, layer.prepare(text)))
    w = {name: p.detach().numpy() for name, p in layer.named_parameters()}
    v, h, h_text = v[0].numpy(), h[0].numpy(), h_text[0].numpy()

    def at(maps, i, j):
        return maps[:, i, j] if 0 <= i < 4 and 0 <= j < 4 else np.zeros(3)

    def gated(a):
        return np.tanh(a[:3]) / (1 + np.exp(-a[3:]))

    colour = np.array([0, 1, 2])
    allowed = colour[None] <= np.tile(colour, 2)[:, None]
    for i in range(4):
        for j in range(4):
            above = w["vertical.bias"].copy()
            for a in (0, 1):
                for b in (-1, 0, 1):
                    above += w["vertical.weight"][:, :, a, b + 1] @ at(v, i + a - 1, j + b)
            np.testing.assert_allclose(
                new_v[:, i, j], gated(above + w["above_bias.shift.weight"] @ h_text)
            )
            beside = w["horizontal.bias"] + w["link.bias"] + w["link.weight"][:, :, 0, 0] @ above
            beside += w["horizontal.weight"][:, :, 0, 0] @ at(h, i, j - 1)
            beside += (w["horizontal.weight"][:, :, 0, 1] * allowed) @ at(h, i, j)
            y = gated(beside + w["beside_bias.shift.weight"] @ h_text)
            y = w["out.bias"] + (w["out.weight"][:, :, 0, 0] * allowed[:3]) @ y
            np.testing.assert_allclose(new_h[:, i, j], h[:, i, j] + y)


@torch.no_grad()
@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_cached_logits_are_those_of_the_whole_image(conditioning):
    made, text, levels = network(conditioning, kernel_size=5, depth=3), features(), pixels()
    expected = made(from_pixels(levels), text)
    tokens, cache = sequence(levels).long(), made.start_cache(text)
    for n in range(3 * SIDE**2):
        found = made.step(tokens[:, n - 1] if n else None, n, cache)
        pixel, colour = divmod(n, 3)
        whole = expected[:, :, colour, pixel // SIDE, pixel % SIDE]
        torch.testing.assert_close(found, whole, atol=2e-5, rtol=1e-5)


@torch.no_grad()
def test_sampling_costs_about_one_pass_of_the_network():
    made, text = network(width=12, depth=4), features(1)
    images = from_pixels(pixels(1))

    def sample():
        cache, tokens = made.start_cache(text), sequence(pixels(1)).long()
        for n in range(3 * SIDE**2):
            made.step(tokens[:, n - 1] if n else None, n, cache)

    assert count_flops(sample) < 1.1 * count_flops(lambda: made(images, text))


@torch.no_grad()
def test_the_likelihood_is_of_eight_bit_values(module):
    levels = pixels()
    batch = Batch(from_pixels(levels), CAPTIONS, torch.arange(4))
    found = module.likelihood(batch)
    assert (found.of, found.bound, found.dimensions) == ("pixels", False, 3 * SIDE**2)
    text = module.encode_text(batch)
    cache, tokens, nats = module.network.start_cache(text), sequence(levels).long(), torch.zeros(4)
    for n in range(3 * SIDE**2):
        logits = module.network.step(tokens[:, n - 1] if n else None, n, cache)
        nats -= logits.log_softmax(1).gather(1, tokens[:, n : n + 1])[:, 0]
    torch.testing.assert_close(found.nats, nats, rtol=1e-5, atol=1e-3)
    # What lies between two levels is the nearer one.
    beside = Batch(batch.image + 0.4 / 127.5, CAPTIONS, batch.index)
    assert torch.equal(module.likelihood(beside).nats, found.nats)
    losses = module.validation_losses(batch)
    torch.testing.assert_close(losses["loss"], nats.mean() / (3 * SIDE**2))
    assert not torch.equal(losses["loss"], losses["loss_without_text"])


def test_an_untrained_network_guesses_evenly(module):
    made = GatedPixelCNN(
        side=SIDE, text_width=8, width=6, depth=2, kernel_size=3, heads=2, conditioning="concat"
    )
    logits = made(from_pixels(pixels()), features())
    assert logits.shape == (4, 256, 3, SIDE, SIDE)
    assert logits.logsumexp(1).mean().item() == pytest.approx(math.log(256))


def halves(count=4):
    lower = torch.zeros(count, 1, SIDE, SIDE, dtype=torch.bool)
    lower[:, :, SIDE // 2 :] = True
    return lower


def test_samples_are_levels_of_their_own_seed_and_completions_go_on_from_them(module):
    sample = module.generate(CAPTIONS, SeededNoise(SEEDS))
    assert torch.equal(from_pixels(to_pixels(sample)), sample)
    alone = module.generate(CAPTIONS[1:2], SeededNoise(SEEDS[1:2]))
    assert torch.equal(alone[0], sample[1])
    # A sample's own half is what sampling would have drawn again.
    again = module.generate(CAPTIONS, SeededNoise(SEEDS), edit=Inpainting(sample, halves()))
    assert torch.equal(again, sample)
    # The known half is kept, also between two levels, and what is drawn reads it.
    image = from_pixels(pixels(seed=3)) * 0.99
    found = module.generate(CAPTIONS, SeededNoise(SEEDS), edit=Inpainting(image, halves()))
    known = ~halves().expand_as(found)
    assert torch.equal(found[known], image[known])
    assert not torch.equal(found[:, :, SIDE // 2 :], sample[:, :, SIDE // 2 :])


@pytest.mark.parametrize(
    "changes, match",
    [
        ({"width": 8}, "3 colours"),
        ({"heads": 4}, "heads=4"),
        ({"depth": 1}, "at least 2"),
        ({"kernel_size": 4}, "odd"),
    ],
)
def test_shapes_that_it_cannot_have_are_refused(changes, match):
    with pytest.raises(ConfigError, match=match):
        network(**changes)


def test_an_image_of_another_size_is_not_completed(module):
    small = Inpainting(torch.zeros(4, 3, 4, 4), torch.ones(4, 1, 4, 4, dtype=torch.bool))
    with pytest.raises(ConfigError, match="resize"):
        module.generate(CAPTIONS, SeededNoise(SEEDS), edit=small)


def test_weights_at_the_paper_s_size_are_as_the_layers_say():
    model = compose_config(["model=autoregressive/pixel_cnn", "size=paper"])["model"]
    given = {k: v for k, v in model["module"]["network"].items() if not k.startswith("_")}
    p, layers, n = 384, 20, 5
    with torch.device("meta"):
        made = GatedPixelCNN(side=32, text_width=1, **given)
    counted = sum(w.numel() for name, w in made.named_parameters() if "bias.shift" not in name)
    gates = {"first": 2 * p * 3 * (2 * n + 3), "later": 2 * p * p * (3 * n + 3)}
    biases = layers * (3 * 2 * p + p)
    ones = layers * (4 * p * p + p * p)
    head = p * p + p + p * 768 + 768
    assert counted == gates["first"] + (layers - 1) * gates["later"] + biases + ones + head
