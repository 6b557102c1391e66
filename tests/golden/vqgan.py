"""Recipe of VQGAN's parity: its quantiser and its loss at small width, inputs in closed form.

``vqgan.json`` holds what the authors' code (CompVis/taming-transformers of 2022-11-07) computes
from the same numbers in float64: ``VectorQuantizer2`` with either place of beta, and
``VQLPIPSWithDiscriminator`` before and after its start, the discriminator in training mode and
LPIPS in evaluation mode (its dropout is off), with beta 0.25, disc_weight 0.8 and all other weights
1. The decoder is a nearest upsampling by 8 and one 3x3 convolution, whose weights are the last
layer.

Weights are those of ``attn_gan.fill``, in float64, for the discriminator (ndf 4, 3 layers) and for
VGG16's convolutions; the weights of LPIPS's channels are the published ones. The other inputs are
waves of ``attn_gan.wave``: latents, codebook, the decoder's weights times 0.2 and bias times 0.1,
images. Tensors are kept as ``attn_gan.sketch``.

``llama_gen`` is the quantiser of FoundationVision/LlamaGen of 2024-06-30 on the same latents and
codebook, normalised, without its entropy loss; the gradients are those of the penalty plus a tenth
of the code vectors' product with sin(i), as for the other quantiser.
"""

import json
from pathlib import Path

from golden.attn_gan import wave

FILE = Path(__file__).with_name("vqgan.json")
LATENTS, CODEBOOK, IMAGES = (2, 4, 4, 4), (16, 4), (2, 3, 32, 32)
WEIGHT, BIAS = (3, 4, 3, 3), (3,)
BETA, DISC_WEIGHT, SCALE = 0.25, 0.8, 8
NDF, LAYERS = 4, 3


def inputs():
    """Latents, codebook, weights and bias of the decoder, images."""
    return (
        wave(LATENTS, 3),
        wave(CODEBOOK, 5),
        0.2 * wave(WEIGHT, 7),
        0.1 * wave(BIAS, 9),
        wave(IMAGES, 11),
    )


def expected():
    """What the authors' code computed."""
    return json.loads(FILE.read_text())
