"""Projected discriminator: small heads on the features of a frozen vision transformer.

Sauer et al. 2021 (Projected GANs) and 2023 (StyleGAN-T). The transformer (``PublishedViT``: any
of timm's; ``SmallViT``: a small one with random weights, where none are at hand) comes as the
part ``backbone``; this module's weights are the heads alone.

Shape legend: N image tokens, D the transformer's width, E the heads' embedding width, M feature
maps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import conv1d, interpolate, leaky_relu, normalize, pad

from t2ibench.core.errors import ConfigError, MissingWeightsError, first_line
from t2ibench.core.types import Images
from t2ibench.nn.stylegan import EqualisedLinear, in_float32

SLOPE = 0.2
"""Negative slope of the heads' leaky ReLUs."""

HUB = "hub"
"""Value of a path that means the weights which timm knows by the architecture's name."""


class ViTFeatures(nn.Module):
    """Tokens of a vision transformer after its patch embedding and after chosen blocks.

    Of each map, the class token is added to every image token.

    Args:
        vit: a timm ``VisionTransformer``.
        blocks: numbers of the blocks, from 0.
        patch_embedding: True to give the embedded patches, with their positions, as the last map.

    Raises:
        ConfigError: it is of another kind, or has no such block.

    Attributes:
        image_size: side of the input in pixels; images are resized by areas.
        width: D.
        maps: M, number of feature maps.

    Source: Sauer et al. 2023 (StyleGAN-T), section 3.2; Ranftl et al. 2021 (DPT), eq. 3 (add).
    Differs: a transformer without a class token adds none; of several, the first.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, vit: Any, blocks: Sequence[int], patch_embedding: bool) -> None:
        super().__init__()
        if not all(hasattr(vit, name) for name in ("patch_embed", "blocks", "_pos_embed")):
            raise ConfigError(
                f"parts.backbone.network.architecture is a {type(vit).__name__}, which is no "
                "vision transformer of timm; choose one of its vit_* or deit_* names."
            )
        depth = len(vit.blocks)
        missing = [block for block in blocks if not 0 <= block < depth]
        if missing or not blocks:
            raise ConfigError(
                f"parts.backbone.network.blocks={list(blocks)} asks for block "
                f"{missing[0] if missing else 'none'} of a vision transformer with {depth} blocks; "
                f"choose numbers from 0 to {depth - 1}."
            )
        self.vit = vit
        self.chosen = tuple(blocks)
        self.patch_embedding = patch_embedding
        self.maps = len(blocks) + patch_embedding
        self.width = int(vit.embed_dim)
        self.image_size = int(vit.patch_embed.img_size[0])
        known = getattr(vit, "pretrained_cfg", None) or {}
        for name in ("mean", "std"):
            value = torch.tensor(known.get(name, (0.5, 0.5, 0.5)))[:, None, None]
            self.register_buffer(name, value, persistent=False)

    def forward(self, images: Images) -> list[Float[Tensor, "B D N"]]:
        """Feature maps of images in [-1, 1] of any size, those of the blocks first."""
        side = self.image_size
        if images.shape[-2:] != (side, side):
            images = interpolate(images, size=(side, side), mode="area")
        x = self.vit.patch_embed(((images + 1) / 2 - self.mean) / self.std)
        x = self.vit._pos_embed(x)
        embedded = x
        x = self.vit.norm_pre(self.vit.patch_drop(x))
        found = {}
        for number, block in enumerate(self.vit.blocks):
            x = block(x)
            found[number] = x
            if number == max(self.chosen):
                break
        maps = [found[block] for block in self.chosen]
        maps += [embedded] if self.patch_embedding else []
        return [self._readout(tokens) for tokens in maps]

    def _readout(self, tokens: Float[Tensor, "B N2 D"]) -> Float[Tensor, "B D N"]:
        before = self.vit.num_prefix_tokens
        image = tokens[:, before:]
        return (image + tokens[:, :1] if before else image).transpose(1, 2)


class PublishedViT(ViTFeatures):
    """A vision transformer by timm's name, for example ``vit_small_patch16_224.dino``.

    Args:
        architecture: timm's name.
        weights: file of its weights in timm's format (.safetensors, or .pth with tensors alone);
            ``hub``: those of that name in the hub's cache, or downloaded; None: random.
        blocks: see ``ViTFeatures``.
        patch_embedding: see ``ViTFeatures``.

    Raises:
        ConfigError: timm has no such architecture, or see ``ViTFeatures``.
        MissingWeightsError: there is no such file, or the hub cannot be reached.
        CheckpointError: the file is damaged or of another architecture.

    Source: Sauer et al. 2023 (StyleGAN-T), section 3.2 (DINO ViT-S/16, blocks 2, 5, 8, 11).
    Differs: none.
    """

    def __init__(
        self,
        *,
        architecture: str,
        weights: str | None,
        blocks: Sequence[int],
        patch_embedding: bool,
    ) -> None:
        import timm

        if not timm.is_model(architecture):
            raise ConfigError(
                f"parts.backbone.network.architecture={architecture} is no model of timm; choose "
                "a vision transformer, for example vit_small_patch16_224.dino."
            )
        try:
            vit = timm.create_model(architecture, num_classes=0, pretrained=weights == HUB)
        except (OSError, RuntimeError) as error:
            raise MissingWeightsError(
                f"timm's weights of {architecture} are neither in the hub's cache nor can they be "
                f"downloaded ({first_line(error)}); set parts.backbone.path to a file of them, or "
                "choose backbone=vit_random."
            ) from error
        super().__init__(vit, blocks, patch_embedding)
        if weights not in (None, HUB):
            load_weights(vit, Path(str(weights)).expanduser(), architecture)


class SmallViT(ViTFeatures):
    """A small vision transformer whose weights stay as they are drawn.

    Args:
        image_size: side of its input in pixels.
        patch_size: side of a patch.
        width: D.
        depth: number of blocks.
        heads: attention heads.
        blocks: see ``ViTFeatures``.
        patch_embedding: see ``ViTFeatures``.

    Source: Dosovitskiy et al. 2021 (ViT), section 3.1.
    Differs: small, and never trained; weights keep the variance of what they multiply, where
        published ones begin near zero.
    """

    def __init__(
        self,
        *,
        image_size: int,
        patch_size: int,
        width: int,
        depth: int,
        heads: int,
        blocks: Sequence[int],
        patch_embedding: bool,
    ) -> None:
        from timm.models.vision_transformer import VisionTransformer

        if image_size % patch_size or width % heads:
            raise ConfigError(
                f"parts.backbone.network: image_size={image_size} must be a multiple of "
                f"patch_size={patch_size}, and width={width} of heads={heads}."
            )
        vit = VisionTransformer(
            img_size=image_size,
            patch_size=patch_size,
            embed_dim=width,
            depth=depth,
            num_heads=heads,
            num_classes=0,
        )
        for layer in vit.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                nn.init.normal_(layer.weight, std=layer.weight[0].numel() ** -0.5)
        super().__init__(vit, blocks, patch_embedding)


def load_weights(vit: Any, path: Path, architecture: str) -> None:
    """Loads a file of weights into a vision transformer, strictly but for its classifier.

    Raises:
        MissingWeightsError: there is no such file.
        CheckpointError: it is damaged, or of another architecture.
    """
    from timm.models.vision_transformer import checkpoint_filter_fn

    from t2ibench.core.errors import CheckpointError
    from t2ibench.core.tensors import foreign_content, read_safetensors

    if not path.is_file():
        raise MissingWeightsError(
            f"{path} with the weights of {architecture} is missing; set parts.backbone.path to it, "
            "or choose backbone=vit_random."
        )
    try:
        if path.suffix == ".safetensors":
            state: Any = read_safetensors(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        found = checkpoint_filter_fn(state, vit)
        kept = {n: t for n, t in found.items() if not n.startswith(("head.", "fc_norm.", "head_"))}
        vit.load_state_dict(kept, strict=True)
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(
            foreign_content(path)
            or f"{path} does not hold the weights of {architecture} ({first_line(error)}); give "
            "timm's file of that architecture, or another parts.backbone.network.architecture."
        ) from error


class SpectralConv1d(nn.Module):
    r"""Convolution along the tokens with weights of spectral norm 1: :math:`W / (u^T W v)`.

    u and v follow the first singular vectors by one power iteration in each forward pass of
    training.

    Args:
        channels: of the input.
        out: of the output.
        kernel: odd; the tokens are a circle.

    Source: Miyato et al. 2018, algorithm 1.
    Differs: none.
    """

    u: Tensor
    v: Tensor

    def __init__(self, channels: int, out: int, kernel: int) -> None:
        super().__init__()
        like = nn.Conv1d(channels, out, kernel)
        self.weight, self.bias = like.weight, like.bias
        self.kernel = kernel
        self.register_buffer("u", normalize(torch.randn(out), dim=0, eps=1e-12))
        self.register_buffer("v", normalize(torch.randn(channels * kernel), dim=0, eps=1e-12))

    def forward(self, x: Float[Tensor, "B C N"]) -> Float[Tensor, "B C2 N"]:
        """Computes the layer, see the class."""
        with in_float32(x):
            matrix, u, v = self.weight.float().flatten(1), self.u, self.v
            if self.training:
                with torch.no_grad():
                    v = normalize(matrix.T @ u, dim=0, eps=1e-12)
                    u = normalize(matrix @ v, dim=0, eps=1e-12)
                    # Copies, so that a later pass does not change what backward reads.
                    self.v.copy_(v)
                    self.u.copy_(u)
            weight = self.weight / (u @ matrix @ v)
        side = self.kernel // 2
        x = pad(x, (side, side), mode="circular") if side else x
        return conv1d(x, weight.to(x.dtype), self.bias)


class VirtualBatchNorm(nn.Module):
    """Normalisation over groups of samples that follow each other in the batch, and all tokens.

    A batch that is no multiple of the group is cut into groups as equal as can be. So training on
    several devices, or in accumulated parts, is that on one where each has whole groups.

    Args:
        channels: of the features.
        group: greatest number of samples in a group.

    Source: Hoffer et al. 2017 (ghost batch normalisation); Sauer et al. 2023, section 3.2.
    Differs: batches of any size.
    """

    def __init__(self, channels: int, group: int) -> None:
        super().__init__()
        self.group = group
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Float[Tensor, "B C N"]) -> Float[Tensor, "B C N"]:
        """Computes the layer, see the class."""
        groups = x.tensor_split(math.ceil(len(x) / self.group))
        x = torch.cat([self._standardised(g) for g in groups])
        return x * self.weight[:, None] + self.bias[:, None]

    @staticmethod
    def _standardised(x: Tensor) -> Tensor:
        mean = x.mean((0, 2), keepdim=True)
        variance = x.var((0, 2), keepdim=True, correction=0)
        return (x - mean) / (variance + 1e-5).sqrt()


class HeadBlock(nn.Module):
    """Spectral convolution, virtual batch norm, leaky ReLU."""

    def __init__(self, channels: int, kernel: int, group: int) -> None:
        super().__init__()
        self.convolution = SpectralConv1d(channels, channels, kernel)
        self.norm = VirtualBatchNorm(channels, group)

    def forward(self, x: Float[Tensor, "B D N"]) -> Float[Tensor, "B D N"]:
        """Computes the layers, see the class."""
        return leaky_relu(self.norm(self.convolution(x)), SLOPE)


class Head(nn.Module):
    """One feature map to a logit a token, by the scalar product with the projected text.

    Source: Sauer et al. 2023 (StyleGAN-T), section 3.2 and figure 4; Miyato and Koyama 2018
        (projection).
    Differs: none.
    """

    def __init__(
        self, width: int, text_width: int, embedding_width: int, kernel: int, group: int
    ) -> None:
        super().__init__()
        self.first = HeadBlock(width, 1, group)
        self.second = HeadBlock(width, kernel, group)
        self.text = EqualisedLinear(text_width, embedding_width)
        self.logit = SpectralConv1d(width, embedding_width, 1)

    def forward(
        self, features: Float[Tensor, "B D N"], text: Float[Tensor, "B D2"]
    ) -> Float[Tensor, "B N"]:
        """Logits of all tokens."""
        x = self.first(features)
        x = (self.second(x) + x) / math.sqrt(2)
        told = self.text(text).unsqueeze(-1)
        return (self.logit(x) * told).sum(1) / math.sqrt(told.shape[1])


class ProjectedHeads(nn.Module):
    """The trained part of the projected discriminator: one head a feature map.

    Args:
        width: D of the features.
        maps: M.
        text_width: of the text vector.
        embedding_width: E, in which features and text are compared.
        kernel: of the convolution along the tokens.
        group: of the virtual batch norm.

    Source: Sauer et al. 2023 (StyleGAN-T), section 3.2.
    Differs: none.
    """

    def __init__(
        self,
        *,
        width: int,
        maps: int,
        text_width: int,
        embedding_width: int,
        kernel: int,
        group: int,
    ) -> None:
        super().__init__()
        self.heads = nn.ModuleList(
            Head(width, text_width, embedding_width, kernel, group) for _ in range(maps)
        )

    def blocks_to_shard(self) -> list[nn.Module]:
        """The heads."""
        return list(self.heads)

    def forward(
        self, features: Sequence[Float[Tensor, "B D N"]], text: Float[Tensor, "B D2"]
    ) -> Float[Tensor, "B L"]:
        """Logits of all tokens of all maps, map after map."""
        pairs = zip(self.heads, features, strict=True)
        return torch.cat([head(of_map, text) for head, of_map in pairs], dim=1)


def cropped(images: Images, side: int) -> Float[Tensor, "B 3 h h"]:
    """A random square part of the images, the same of all, by torch's global generator."""
    spare = images.shape[-1] - side
    top, left = (int(torch.randint(spare + 1, ())) for _ in range(2))
    return images[..., top : top + side, left : left + side]
