"""Training of a text encoder with images: deep structured joint embedding.

Reed et al. 2016, "Learning Deep Representations of Fine-Grained Visual Descriptions" (CVPR): a
caption and its image should have a greater scalar product than either has with another's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import leaky_relu
from torch.optim import Optimizer

from t2ibench.core.ranks import gathered, own
from t2ibench.core.types import Batch, Images
from t2ibench.text.frozen import FrozenTextEncoder

MARGIN = 1.0
"""Excess that a true pair's score should have over a false one's."""

SLOPE = 0.2
"""Negative slope of the image encoder's leaky ReLUs."""


def joint_embedding_loss(
    image: Float[Tensor, "B D"],
    text: Float[Tensor, "B D"],
    others: Bool[Tensor, "B B"],
) -> Float[Tensor, ""]:
    """Symmetric structured hinge of scores s_ij = image_i . text_j, over pairs of two classes.

    sum over i, j of (max(0, 1 + s_ij - s_ii) + max(0, 1 + s_ji - s_ii)) / B^2

    Args:
        image: (B, D) features of images.
        text: (B, D) features of their captions.
        others: (B, B) True where caption j is none of image i.

    Source: Reed et al. 2016 (CVPR), eq. 3-5; mean and margin of the released code.
    Differs: none.
    """
    scores = image @ text.T
    true = scores.diagonal()
    by_image = (MARGIN + scores - true[:, None]).clamp(min=0)
    by_text = (MARGIN + scores - true[None]).clamp(min=0)
    return ((by_image + by_text) * others).sum() / others.numel()


class ImageTower(nn.Module):
    """A small convolutional image encoder, trained along.

    Args:
        channels: of the first convolution; each of the two after it has twice as many.
        width: D of the output.

    Source: Reed et al. 2016 (CVPR), section 4 (image features).
    Differs: trained from scratch with the text, in place of frozen GoogLeNet features, for which
        the image encoder is a no-operation.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        widths = [channels, 2 * channels, 4 * channels]
        self.downs = nn.ModuleList(
            nn.Conv2d(inner, outer, 4, 2, 1)
            for inner, outer in zip([3, *widths], widths, strict=False)
        )
        self.norms = nn.ModuleList(nn.GroupNorm(4, outer) for outer in widths)
        self.out = nn.Linear(2 * widths[-1], width)

    def forward(self, images: Images) -> Float[Tensor, "B D"]:
        """Features of images: mean and maximum over the last map, through a linear layer."""
        x = images
        for down, norm in zip(self.downs, self.norms, strict=True):
            x = leaky_relu(norm(down(x)), SLOPE)
        return self.out(torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1))


class JointEmbedding(pl.LightningModule):
    """Trains the network of a text encoder with an image encoder, on pairs of a training split.

    Args:
        encoder: its network is trained here and frozen afterwards.
        image: factory of the image encoder, called with ``width``.
        optimizer: factory of the optimiser of both.

    Attributes:
        images_seen: the clock, set before every step.

    Source: Reed et al. 2016 (CVPR), sections 3-4.
    Differs: an image with the same caption counts as one of the same class, and the batch is any
        images, not one of each class; the learning rate does not fall by epochs.
    """

    def __init__(
        self,
        *,
        encoder: FrozenTextEncoder,
        image: Callable[..., nn.Module],
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.text = encoder.backbone.requires_grad_(True).train()
        self.image = image(width=encoder.width)
        self.tokenize = encoder.tokenize
        self.make_optimizer = optimizer
        self.images_seen = 0

    @property
    def trains_in_turns(self) -> bool:
        """False: one optimiser steps both networks."""
        return False

    def networks(self) -> dict[str, nn.Module]:
        """The networks that are trained."""
        return dict(self.named_children())

    def sampling_parameters(self) -> dict[str, nn.Parameter]:
        """The text network's parameters: those that EMA averages."""
        return {n: p for n, p in self.named_parameters() if n.startswith("text.")}

    def configure_optimizers(self) -> Any:
        """Makes one optimiser of both networks."""
        return self.make_optimizer(self.parameters())

    def embed_captions(self, captions: Sequence[str]) -> Float[Tensor, "B D"]:
        """Features of captions."""
        ids, _ = self.tokenize(captions)
        return self.text(ids.to(self.device)).mean(1)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Performs one step on the loss of all pairs of the batch of all ranks."""
        image, text = (
            gathered(self.image(batch.image)),
            gathered(self.embed_captions(batch.caption)),
        )
        # By the features themselves: equal captions have equal ids on every rank.
        ids = gathered(self.tokenize(batch.caption)[0].to(self.device))
        others = (ids[:, None] != ids[None]).any(-1)
        loss = joint_embedding_loss(image.float(), text.float(), others)
        optimizer: Any = self.optimizers()
        optimizer.zero_grad(set_to_none=True)
        self.manual_backward(loss)
        optimizer.step()
        found = (image @ text.T).detach().argmax(1) == torch.arange(len(image), device=self.device)
        return {"loss": loss.detach(), "accuracy": own(found, len(batch)).float().mean()}
