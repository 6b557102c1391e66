"""Weights and inputs of ``tests/golden/style_gan_t.json``, in closed form.

The numbers there are those of the authors' public code (github.com/autonomousvision/stylegan-t)
with these weights and inputs, in float32 on a CPU, with their reference implementations of
upfirdn2d and bias_act:

- tensor number k of a network, in the order of its ``state_dict`` here, has as entry i in its flat
  order a sin(0.371 i^2 + k), a = 100 in the mapping (whose gain is a hundredth) and 1 elsewhere;
  vectors of spectral norms are divided by their length;
- inputs are filled likewise, with the k that stands beside them below.

Layout: 32 px, Z 16, text 24, channel base 512, at most 32 channels, 2 pairs, 8 groups; heads of
width 32 on blocks 0 to 3 and the patch embedding of timm's ViT with 4 px patches, 4 blocks, 2 heads
and ImageNet's channel statistics; 12 samples; no augmentation, no crop.
"""

import torch
from timm.models.vision_transformer import VisionTransformer
from torch.nn.functional import normalize

from t2ibench.core.types import TextFeatures
from t2ibench.families.gan.losses import Adversary
from t2ibench.families.gan.projected import ProjectedHeads, ViTFeatures
from t2ibench.families.gan.style_gan_t import spherical_distance
from t2ibench.families.gan.style_gan_t_generator import Generator, Latents
from t2ibench.nn.stylegan import fading_blur

COUNT, SIDE, Z, TEXT, WIDTH = 12, 32, 16, 24, 32


def wave(shape, k, amplitude=1.0):
    """a sin(0.371 i^2 + k)."""
    i = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    return (amplitude * torch.sin(0.371 * i * i + k)).reshape(shape).float()


@torch.no_grad()
def filled(network):
    """The network with closed-form tensors."""
    for k, (name, tensor) in enumerate(network.state_dict().items()):
        value = wave(tensor.shape, k, 100.0 if name.startswith("mapping.") else 1.0)
        tensor.copy_(normalize(value, dim=0) if name.endswith((".u", ".v")) else value)
    return network


def generator():
    """Ours, filled."""
    options = {"channel_base": 512, "channel_max": 32, "pairs": 2, "groups": 8}
    made = Generator(
        resolution=SIDE, text_width=TEXT, noise_width=Z, conditioning="modulation",
        clamp=256.0, heads=1, **options,
    )  # fmt: skip
    return filled(made)


def backbone():
    """The vision transformer, filled."""
    vit = VisionTransformer(
        img_size=SIDE, patch_size=4, embed_dim=WIDTH, depth=4, num_heads=2, num_classes=0
    )
    vit.pretrained_cfg = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    filled(vit.eval().requires_grad_(False))
    return ViTFeatures(vit, [0, 1, 2, 3], True)


def heads():
    """Ours, filled."""
    return filled(
        ProjectedHeads(width=WIDTH, maps=5, text_width=TEXT, embedding_width=64, kernel=9, group=8)
    )


def inputs(map_sides):
    """Noise, text, noise maps, real images, two sets of vectors."""
    return {
        "z": wave((COUNT, Z), 1.0),
        "text": normalize(wave((COUNT, TEXT), 2.0), dim=1),
        "maps": [wave((COUNT, 1, side, side), 3.0 + n) for n, side in enumerate(map_sides)],
        "real": wave((COUNT, 3, SIDE, SIDE), 50.0),
        "vectors": (wave((COUNT, TEXT), 60.0), wave((COUNT, TEXT), 61.0)),
    }


def summary(tensor):
    """Three numbers of a tensor: its length, its product with a wave, and one entry."""
    flat = tensor.detach().double().flatten()
    return [
        float(flat.norm()),
        float(flat @ wave(flat.shape, 0.5).double()),
        float(flat[7 % len(flat)]),
    ]


def ours():
    """All numbers, by this project's code."""
    g, d, vit = generator(), heads(), backbone()
    given = inputs(g.synthesis.map_sides)
    text = TextFeatures(
        given["text"][:, None], torch.ones(COUNT, 1, dtype=torch.bool), given["text"]
    )
    latents = Latents(given["z"], given["maps"])
    found = {}
    images = g.train()(text, latents)
    found["mean of mapped noise"] = summary(g.mapping.average)
    found["images"] = summary(images)
    found["truncated images"] = summary(g.eval()(text, latents, psi=0.5))
    judge, adversary = (lambda x: d(vit(x), given["text"])), Adversary("hinge")
    fake, real = judge(images.detach()), judge(given["real"])
    found["logits"] = summary(torch.cat([fake, real]))
    loss = adversary.discriminator_loss(real, [(1.0, fake)])
    found["discriminator loss"] = [loss.item()]
    loss.backward()
    found |= {f"d {name}": summary(p.grad) for name, p in d.named_parameters()}
    loss = adversary.generator_loss(judge(images))
    found["generator loss"] = [loss.item()]
    loss.backward()
    found |= {f"g {name}": summary(p.grad) for name, p in g.named_parameters()}
    found["blurred images"] = summary(fading_blur(given["real"], 2.0))
    found["spherical distance"] = summary(spherical_distance(*given["vectors"]))
    return found
