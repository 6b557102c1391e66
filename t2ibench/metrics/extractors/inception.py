"""Inception-v3 of 2015-12-05, the network whose Fréchet distance is called FID.

The published weights are not redistributed here: give the file of torch-fidelity
(``weights-inception-2015-12-05-6726825d.pth``) as an argument or in ``T2IBENCH_INCEPTION``, or run
``t2ibench fetch inception``.
Module names follow that file. Other weights of the same layout load, but their distance is never
called ``fid`` and they give no Inception Score.
"""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from t2ibench.core.errors import CheckpointError, ConfigError
from t2ibench.core.hashing import hash_file
from t2ibench.core.types import PixelImages
from t2ibench.metrics.extractors.contract import FeatureExtractor
from t2ibench.metrics.extractors.published import INCEPTION, PublishedWeights

PUBLISHED_SHA256 = "6726825d"
"""First digits of the SHA-256 of the only file that may be called fid."""
SIZE = 299
CLASSES = 1008
BATCH_NORM_EPSILON = 1e-3

Pool = Literal["average", "max", "max-stride-2"]
Conv = tuple[str, int, tuple[int, int], int]
Branch = list[Conv | tuple[Conv, Conv]]


def resize_tf1(images: Float[Tensor, "B C H W"], size: int) -> Float[Tensor, "B C size size"]:
    """TensorFlow 1's bilinear resize: corner-aligned grid, no antialiasing.

    Output pixel i reads ``i * side / size``, between its floor and the next pixel (the last
    repeats). The half-pixel grids of other libraries shift the picture.

    Args:
        images: any range.
        size: output side.

    Source: TensorFlow 1.x ``resize_bilinear`` with ``align_corners=False``.
    Differs: none.
    """
    if images.shape[-2:] == (size, size):
        return images
    for axis in (-1, -2):
        side = images.shape[axis]
        place = torch.arange(size, dtype=torch.float32, device=images.device) * (side / size)
        low = place.floor().long()
        high = (low + 1).clamp(max=side - 1)
        share = (place - low).to(images.dtype)
        share = share if axis == -1 else share[:, None]
        first = images.index_select(axis, low)
        images = first + (images.index_select(axis, high) - first) * share
    return images


def resize_pil(images: Float[Tensor, "B C H W"], size: int) -> Float[Tensor, "B C size size"]:
    """Pillow's bicubic resize of each channel in float32, clipped to [0, 255].

    Source: Parmar, Zhang & Zhu (2022), "On aliased resizing and surprising subtleties in GAN
    evaluation", section 3; their ``clean`` mode.
    Differs: none.
    """
    found = [
        np.asarray(
            Image.fromarray(channel.numpy()).resize((size, size), Image.Resampling.BICUBIC)
        ).clip(0, 255)
        for image in images.float().cpu()
        for channel in image
    ]
    resized = torch.from_numpy(np.stack(found)).to(images.device)
    return resized.unflatten(0, images.shape[:2])


def resize_antialias(images: Float[Tensor, "B C H W"], size: int) -> Float[Tensor, "B C size size"]:
    """PyTorch's bilinear resize with half-pixel centres and antialiasing."""
    return nn.functional.interpolate(
        images, (size, size), mode="bilinear", align_corners=False, antialias=True
    )


RESIZES = {
    "tf1-bilinear": resize_tf1,
    "pil-bicubic": resize_pil,
    "half-pixel-antialias": resize_antialias,
}
"""Ways in which pixels reach 299 px; each is part of the score's key, so no two share a column.

``tf1-bilinear``: the 2015 graph's and torch-fidelity's, the one of published FIDs before 2022.
``pil-bicubic``: clean-fid's (Parmar et al. 2022), antialiased, in floating point.
``half-pixel-antialias``: PyTorch's antialiased bilinear, torchmetrics' default.
"""


class NormedConv(nn.Module):
    """Convolution without bias, batch normalisation, ReLU; SAME padding at stride 1.

    ``fold`` multiplies the normalisation into the convolution for evaluation; the state dict
    stays that of the file.
    """

    folded_weight: Tensor | None
    folded_bias: Tensor | None

    def __init__(
        self, inner: int, outer: int, kernel: tuple[int, int], stride: int = 1, pad: bool = True
    ) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2) if stride == 1 and pad else (0, 0)
        self.conv = nn.Conv2d(inner, outer, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outer, eps=BATCH_NORM_EPSILON)
        self.register_buffer("folded_weight", None, persistent=False)
        self.register_buffer("folded_bias", None, persistent=False)

    def fold(self) -> None:
        """Prepares evaluation: one convolution with a bias in place of two operations."""
        fused = nn.utils.fuse_conv_bn_eval(self.conv.eval(), self.bn.eval())
        assert fused.bias is not None, "folding a normalisation gives a bias"
        self.folded_weight, self.folded_bias = fused.weight.detach(), fused.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, inner, H, W) to (B, outer, H', W')."""
        if self.training or self.folded_weight is None:
            return nn.functional.relu(self.bn(self.conv(x)), inplace=True)
        conv = self.conv
        x = nn.functional.conv2d(x, self.folded_weight, self.folded_bias, conv.stride, conv.padding)
        return nn.functional.relu(x, inplace=True)


class Mixed(nn.Module):
    """Parallel branches and a pool, joined by channel; a branch may fork at its end."""

    def __init__(self, inner: int, branches: list[Branch], pool: Pool, pooled: int) -> None:
        super().__init__()
        self.chains: list[list[tuple[str, ...]]] = []
        self.pool = pool
        self.width = pooled or inner
        for branch in branches:
            names, channels = [], inner
            for step in branch:
                convs = [step] if isinstance(step[0], str) else list(step)
                for name, outer, kernel, stride in convs:
                    self.add_module(name, NormedConv(channels, outer, kernel, stride))
                names.append(tuple(conv[0] for conv in convs))
                channels = sum(conv[1] for conv in convs)
            self.chains.append(names)
            self.width += channels
        self.branch_pool = NormedConv(inner, pooled, (1, 1)) if pooled else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, inner, H, W) to (B, width, H', W')."""
        found = []
        for chain in self.chains:
            hidden = x
            for names in chain:
                parts = [self.get_submodule(name)(hidden) for name in names]
                hidden = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
            found.append(hidden)
        if self.pool == "average":
            pooled = nn.functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        elif self.pool == "max":
            pooled = nn.functional.max_pool2d(x, 3, 1, 1)
        else:
            pooled = nn.functional.max_pool2d(x, 3, 2)
        return torch.cat([*found, self.branch_pool(pooled)], 1)


def _conv(name: str, outer: int, height: int, width: int = 0, stride: int = 1) -> Conv:
    return (f"branch{name}", outer, (height, width or height), stride)


def _block_a(inner: int, pooled: int) -> Mixed:
    double: Branch = [
        _conv("3x3dbl_1", 64, 1),
        _conv("3x3dbl_2", 96, 3),
        _conv("3x3dbl_3", 96, 3),
    ]
    five: Branch = [_conv("5x5_1", 48, 1), _conv("5x5_2", 64, 5)]
    return Mixed(inner, [[_conv("1x1", 64, 1)], five, double], "average", pooled)


def _block_b(inner: int) -> Mixed:
    double: Branch = [
        _conv("3x3dbl_1", 64, 1),
        _conv("3x3dbl_2", 96, 3),
        _conv("3x3dbl_3", 96, 3, stride=2),
    ]
    return Mixed(inner, [[_conv("3x3", 384, 3, stride=2)], double], "max-stride-2", 0)


def _block_c(inner: int, narrow: int) -> Mixed:
    seven: Branch = [
        _conv("7x7_1", narrow, 1),
        _conv("7x7_2", narrow, 1, 7),
        _conv("7x7_3", 192, 7, 1),
    ]
    double: Branch = [
        _conv("7x7dbl_1", narrow, 1),
        _conv("7x7dbl_2", narrow, 7, 1),
        _conv("7x7dbl_3", narrow, 1, 7),
        _conv("7x7dbl_4", narrow, 7, 1),
        _conv("7x7dbl_5", 192, 1, 7),
    ]
    return Mixed(inner, [[_conv("1x1", 192, 1)], seven, double], "average", 192)


def _block_d(inner: int) -> Mixed:
    three: Branch = [_conv("3x3_1", 192, 1), _conv("3x3_2", 320, 3, stride=2)]
    seven: Branch = [
        _conv("7x7x3_1", 192, 1),
        _conv("7x7x3_2", 192, 1, 7),
        _conv("7x7x3_3", 192, 7, 1),
        _conv("7x7x3_4", 192, 3, stride=2),
    ]
    return Mixed(inner, [three, seven], "max-stride-2", 0)


def _block_e(inner: int, pool: Pool) -> Mixed:
    three: Branch = [
        _conv("3x3_1", 384, 1),
        (_conv("3x3_2a", 384, 1, 3), _conv("3x3_2b", 384, 3, 1)),
    ]
    double: Branch = [
        _conv("3x3dbl_1", 448, 1),
        _conv("3x3dbl_2", 384, 3),
        (_conv("3x3dbl_3a", 384, 1, 3), _conv("3x3dbl_3b", 384, 3, 1)),
    ]
    return Mixed(inner, [[_conv("1x1", 320, 1)], three, double], pool, 192)


class InceptionV3(FeatureExtractor):
    """Pooled 2048-d features of the 2015 Inception-v3.

    Args:
        weights: the state-dict file (566 tensors); None: the one named by
            ``T2IBENCH_INCEPTION``, else the one that ``t2ibench fetch inception`` put.
        resize: see ``RESIZES``.

    Raises:
        ConfigError: an unknown resize.
        MissingWeightsError: no file is given or it is absent.
        CheckpointError: the file has other tensors.

    Source: Szegedy et al. (2016), "Rethinking the Inception architecture"; Heusel et al.
    (2017), section 4, for its use; pooling details of the TensorFlow graph of 2015-12-05.
    Differs: none.
    """

    width = 2048
    batch_size = 16
    weights_argument: ClassVar[str] = "weights"

    def __init__(self, weights: str | Path | None = None, resize: str = "tf1-bilinear") -> None:
        super().__init__()
        if resize not in RESIZES:
            raise ConfigError(f"resize={resize} is unknown; choose {' or '.join(RESIZES)}.")
        self.resize = RESIZES[resize]
        self.preprocessing = f"{resize}-{SIZE}"
        path = INCEPTION.locate(weights)
        self.sha256 = hash_file(path)
        self.name = "inception-v3-tf2015" if self.published else "inception-v3-foreign"
        self.Conv2d_1a_3x3 = NormedConv(3, 32, (3, 3), 2)
        self.Conv2d_2a_3x3 = NormedConv(32, 32, (3, 3), pad=False)
        self.Conv2d_2b_3x3 = NormedConv(32, 64, (3, 3))
        self.Conv2d_3b_1x1 = NormedConv(64, 80, (1, 1))
        self.Conv2d_4a_3x3 = NormedConv(80, 192, (3, 3), pad=False)
        self.Mixed_5b = _block_a(192, 32)
        self.Mixed_5c = _block_a(256, 64)
        self.Mixed_5d = _block_a(288, 64)
        self.Mixed_6a = _block_b(288)
        self.Mixed_6b = _block_c(768, 128)
        self.Mixed_6c = _block_c(768, 160)
        self.Mixed_6d = _block_c(768, 160)
        self.Mixed_6e = _block_c(768, 192)
        self.Mixed_7a = _block_d(768)
        self.Mixed_7b = _block_e(1280, "average")
        self.Mixed_7c = _block_e(2048, "max")
        self.fc = nn.Linear(self.width, CLASSES)
        self._load(path)
        for module in self.modules():
            if isinstance(module, NormedConv):
                module.fold()
        self.to(memory_format=torch.channels_last)
        self.eval().requires_grad_(False)

    @staticmethod
    def weights_of(**arguments: Any) -> PublishedWeights:
        """Entry of the published weights."""
        return INCEPTION

    @property
    def published(self) -> bool:
        """True for the published weights, whose scores alone are FID and Inception Score."""
        return self.sha256.startswith(PUBLISHED_SHA256)

    @property
    def distance_name(self) -> str:
        """Name of the distance: ``fid`` for the published weights, ``fd`` for any other."""
        return "fid" if self.published else "fd"

    def _load(self, path: Path) -> None:
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            self.load_state_dict(state, strict=True)
        except (RuntimeError, AttributeError, TypeError, EOFError, UnpicklingError) as error:
            raise CheckpointError(
                f"{path} does not hold the 566 tensors of torch-fidelity's Inception-v3; give "
                f"weights-inception-2015-12-05-6726825d.pth."
            ) from error

    def forward(self, pixels: PixelImages) -> Float[Tensor, "B 2048"]:
        """Resizes, scales by (x - 128) / 128, embeds and pools."""
        x = (self.resize(pixels.float(), SIZE) - 128) / 128
        return self.embed(x.contiguous(memory_format=torch.channels_last))

    def embed(self, x: Float[Tensor, "B 3 side side"]) -> Float[Tensor, "B 2048"]:
        """Pooled features of images that are resized (to 299 px) and scaled already."""
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(nn.functional.max_pool2d(x, 3, 2)))
        x = nn.functional.max_pool2d(x, 3, 2)
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x)))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        return self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x))).mean((2, 3))

    def logits(self, features: Float[Tensor, "N 2048"]) -> Float[Tensor, "N 1008"]:
        """Class logits of pooled features without the bias, as the Inception Score reads them."""
        return features @ self.fc.weight.T.to(features)
