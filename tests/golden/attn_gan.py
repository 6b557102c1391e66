"""Recipe of AttnGAN's parity: networks at small width, inputs and weights in closed form.

``attn_gan.json`` holds what the authors' code (taoxugit/AttnGAN of 2018-10-03) computes from the
same numbers in float64. It was changed in two ways: softmax axes and byte masks are named as
today's PyTorch wants them, and the generator's mask is repeated place by place
(``repeat_interleave``) as its scores are laid out; the authors' ``repeat`` gives a place the mask
of another caption of the batch. Sizes: GF_DIM = DF_DIM = 4, R_NUM 2, Z_DIM 6, CONDITION_DIM 5,
EMBEDDING_DIM 8, gammas 4, 5, 10, LAMBDA 5, 64, 128 and 256 px; all layers are in training mode but
the encoders.

Weights: tensor number n of a network, in the order of ``named_parameters`` of ours, has the values
sin(0.7 i (1 + 0.01 n) + n) at flat place i; matrices are scaled by 1.4 / sqrt(their inputs),
vectors by 0.1, and to the vectors of gains (a bias's neighbour named weight) one is added. A tensor
is kept as its sum, its norm and its product with sin(1.3 i + 1).
"""

import json
import math
from pathlib import Path

import torch

from t2ibench.core.types import TextFeatures

FILE = Path(__file__).with_name("attn_gan.json")
BATCH, WORDS, TEXT, NOISE, CONDITION, CHANNELS = 4, 5, 8, 6, 5, 4
LENGTHS = (5, 4, 3, 2)
CLASSES = (0, 1, 0, 2)
GAMMAS = (4.0, 5.0, 10.0)
VOCABULARY = [f"word{i}" for i in range(20)]


def wave(shape, number):
    """Values in [-1, 1] by place, in torch's default type."""
    index = torch.arange(math.prod(shape), dtype=torch.float64)
    found = torch.sin(0.7 * index * (1 + 0.01 * number) + number).reshape(shape)
    return found.to(torch.get_default_dtype())


@torch.no_grad()
def fill(network):
    """Gives every parameter its values."""
    for number, (name, p) in enumerate(network.named_parameters()):
        values = wave(p.shape, number)
        if p.ndim > 1:
            values = values * (1.4 / math.sqrt(p[0].numel()))
        else:
            values = 0.1 * values + (1 if name.endswith("weight") else 0)
        p.copy_(values)
    return network


def sketch(tensor):
    """A tensor in three numbers."""
    flat = tensor.detach().double().flatten()
    probe = torch.sin(1.3 * torch.arange(len(flat), dtype=torch.float64) + 1)
    return [float(flat.sum()), float(flat.norm()), float(flat @ probe)]


def sketches(named):
    """Sketches by name; of tensors without a gradient none."""
    return {name: sketch(tensor) for name, tensor in named.items() if tensor is not None}


def text_features():
    """Four captions of five to two words."""
    mask = torch.arange(WORDS) < torch.tensor(LENGTHS)[:, None]
    tokens = wave((BATCH, WORDS, TEXT), 3) * mask[..., None]
    return TextFeatures(tokens, mask, wave((BATCH, TEXT), 5))


def draws():
    """Noise z, then that of the augmentation."""
    return wave((BATCH, NOISE + CONDITION), 7)


def real_images():
    """Images of the three sizes."""
    return [wave((BATCH, 3, side, side), 11 + side) for side in (64, 128, 256)]


def region_features(side):
    """Regions (B, D, side, side) and wholes (B, D) of four images."""
    return wave((BATCH, TEXT, side, side), 17), wave((BATCH, TEXT), 19)


def expected():
    """What the authors' code computed."""
    return json.loads(FILE.read_text())
