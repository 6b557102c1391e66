"""The contract of a generator family.

A family is a Lightning module that turns text features and per-image noise into images.
It holds what its papers invented (networks, losses, its sampler) and nothing else: data,
text, clock, EMA, checkpoints, budget, evaluation and report are provided to it or handled
outside it.

To add a family: subclass ``TextToImageModule`` in one file, write one YAML under
``conf/model/``, and run the contract test (``tests/contract``).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from t2ibench.core.edits import Edit, Mixing, PromptMixing
from t2ibench.core.errors import ConfigError, NonFiniteLossError
from t2ibench.core.frozen import FrozenHolder
from t2ibench.core.knobs import Knob, resolve_knobs
from t2ibench.core.noise import Noise, SeededNoise
from t2ibench.core.pixels import to_pixels
from t2ibench.core.ranks import longest, own_rows
from t2ibench.core.shards import stepped, whole
from t2ibench.core.types import Batch, Images, PixelImages, TextFeatures
from t2ibench.data.records import PreparedSplit
from t2ibench.text.contract import TextEncoder

OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]


@dataclass(frozen=True)
class Target:
    """A tensor that a frozen part computes once for every training image, kept in a cache.

    Attributes:
        make: maps images (B, 3, H, W) in [-1, 1] to a tensor (B, …), without gradients.
        fingerprint: content hash of the part that computes it.
    """

    make: Callable[[Images], Tensor]
    fingerprint: str


@dataclass(frozen=True)
class Likelihood:
    """Negative log-likelihoods of a batch, or upper bounds of them.

    Attributes:
        nats: (B,) one value an image.
        dimensions: number of modelled values an image: 3 H W pixels or N codes.
        of: kind of those values.
        bound: True where ``nats`` is only an upper bound.
    """

    nats: Float[Tensor, " B"]
    dimensions: int
    of: Literal["pixels", "codes", "latents"]
    bound: bool

    @property
    def bits_per_dimension(self) -> Float[Tensor, " B"]:
        """Bits per dimension: nats / (dimensions ln 2)."""
        return self.nats / (self.dimensions * math.log(2))


class TextToImageModule(pl.LightningModule, ABC):
    """Base class of all families: text features and noise in, images out.

    Trained on the images-seen clock. Optimisation is manual in every family (a GAN takes two
    optimiser steps an image batch), so that one clock, one clipping rule and one learning-rate
    rule serve all.

    Args:
        text_encoder: makes ``TextFeatures``; a trainable one is trained with the family, a
            frozen one keeps its weights out of this module's state dict.
        resolution: H = W of the images, in pixels.
        null_text_probability: share of captions replaced by the unconditional input in
            training, so that guidance has an unconditional model to steer away from.
        gradient_clip_norm: greatest global gradient norm of one optimiser step; 0 is off.

    Attributes:
        family: the family's name as printed in leaderboards.
        trains: False for a generator without training, which reads the training split once
            (``build_index``) and takes no steps.
        edits: which edits the family offers (``core/edits.py``), and ``size`` where it samples
            other sizes than the training resolution; a stage's may depend on its base.
        mixings: ways in which a second prompt can take over (``edits.PromptMixing.by``), the
            usual one first.
        sampling_arguments: constructor arguments that only sampling reads: they are part of a
            sample set's key and not of a run's identity, and can be changed when a run is scored.
        neutral_arguments: constructor arguments that change no result (memory, speed).
        images_seen: the clock, set before every training step; for warm-ups and losses that start
            late.
    """

    family: ClassVar[str]
    trains: ClassVar[bool] = True
    edits: frozenset[str] = frozenset()
    mixings: ClassVar[tuple[Mixing, ...]] = ("step", "layer")
    sampling_arguments: ClassVar[frozenset[str]] = frozenset()
    neutral_arguments: ClassVar[frozenset[str]] = frozenset()

    def __init__(
        self,
        *,
        text_encoder: TextEncoder,
        resolution: int,
        null_text_probability: float,
        gradient_clip_norm: float,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.text_encoder = text_encoder
        self.resolution = resolution
        self.null_text_probability = null_text_probability
        self.gradient_clip_norm = gradient_clip_norm
        self.images_seen = 0

    # ---- what a family defines ----

    @property
    @abstractmethod
    def knobs(self) -> tuple[Knob, ...]:
        """The sampling knobs; exactly one has ``fidelity_alignment=True``."""

    @abstractmethod
    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Performs one optimisation step (or one a player) on one batch.

        Returns:
            Detached scalar tensors to log; ``loss`` is among them. Never calls ``.item()``.
        """

    def targets(self) -> dict[str, Target]:
        """Tensors that frozen parts compute once of each training image, by their name in a batch.

        Empty by default: the family trains on images. Batches carry the tensors in
        ``Batch.targets``; where a batch has none (no cache), the family encodes its images itself.
        """
        return {}

    def build_index(self, train: PreparedSplit, folder: Path) -> None:
        """Reads the training split once: the only training of a generator with ``trains = False``.

        Such a generator must define it, which is checked before any work.

        Args:
            train: the training split.
            folder: takes the generator's own files and is kept with the run; weights and buffers
                are saved anyway.
        """

    def open_index(self, folder: Path) -> None:
        """Opens the files that ``build_index`` wrote into ``folder``; does nothing by default."""

    def likelihood(self, batch: Batch) -> Likelihood | None:
        """Negative log-likelihoods of real images given their captions; None where not available.

        Called without gradients, in eval mode; must not touch torch's global generator.
        """
        return None

    def validation_losses(self, batch: Batch) -> dict[str, Tensor]:
        """Losses on a fixed batch without randomness, name -> scalar; empty by default.

        Called without gradients; must not touch torch's global generator.
        """
        return {}

    @abstractmethod
    def sample(self, text: TextFeatures, noise: Noise, knobs: Mapping[str, float]) -> Images:
        """Images for text features; ``knobs`` are complete and checked.

        All randomness comes from ``noise``. Runs without gradients, in eval mode. A family with
        edits also takes ``edit``, one that samples other sizes also takes ``size``.
        """

    @property
    def draws_attention(self) -> bool:
        """True where ``attention_maps`` has maps; False by default."""
        return False

    def attention_maps(
        self, text: TextFeatures, noise: Noise, knobs: Mapping[str, float]
    ) -> list[Tensor]:
        """Weights of words at the places of what ``sample`` draws; none by default.

        Args:
            text: features of B captions.
            noise: as for ``sample``, at its first draw.
            knobs: complete and checked.

        Returns:
            (B, L, h, w) of each layer that is worth a look; over words they sum to one.
        """
        return []

    @abstractmethod
    def configure_optimizers(self) -> Any:
        """Makes one optimiser, or a list of them (a GAN's two)."""

    # ---- what every family inherits ----

    def check_batch(self, size: int) -> None:
        """Refuses a batch that this model cannot train on; by default none.

        Called before any work, when the networks have shapes alone.

        Args:
            size: images of one process's batch.

        Raises:
            ConfigError: it cannot.
        """

    def parts(self) -> dict[str, nn.Module]:
        """Networks by name whose parameters and FLOPs are reported."""
        return dict(self.named_children())

    def networks(self) -> dict[str, nn.Module]:
        """Trained networks by name: those that are compiled and sharded over devices.

        A network that FSDP can shard has ``blocks_to_shard()``.
        """
        return {
            name: network
            for name, network in self.named_children()
            if any(p.requires_grad for p in network.parameters())
        }

    def step_kind(self, images: int) -> str:
        """Name of the kind of the coming step, where steps differ in FLOPs (a lazy penalty).

        Each kind is counted at its first step, so a term that is not taken at every step is
        charged where it is. Must be the same on all ranks.

        Args:
            images: number of images of this rank in the step.
        """
        return ""

    @property
    def trains_in_turns(self) -> bool:
        """True where a backward pass leaves trained parameters without a gradient (a GAN)."""
        return False

    @property
    def second_derivatives(self) -> str:
        """Configuration key of a loss that differentiates a gradient (R1); empty without one.

        Sharded weights are gone when the gradient is differentiated, so FSDP refuses it.
        """
        return ""

    def guarded_parts(self) -> dict[str, nn.Module]:
        """Networks that conditioned or trained the generator, by name: for the leakage guard.

        By default all children and all networks that they hold frozen, including those of a
        cascade's base. A family with other networks (held by a loss) adds them.
        """
        found = dict(self.named_children())
        for name, part in self.named_modules():
            if isinstance(part, FrozenHolder):
                for held, network in part.frozen_networks.items():
                    path = f"{name}.{held}"
                    found[path] = network
                    if isinstance(network, TextToImageModule):
                        below = network.guarded_parts()
                        found |= {f"{path}.{inner}": module for inner, module in below.items()}
        return found

    def extra_supervision(self) -> tuple[str, ...]:
        """Supervision beyond captions, images and text encoder, a phrase each; none by default."""
        return ()

    def sampling_parameters(self) -> dict[str, nn.Parameter]:
        """Trainable parameters that sampling uses: those that EMA averages.

        A family with parts that only train (a discriminator) overrides this.
        """
        return {n: p for n, p in self.named_parameters() if p.requires_grad}

    def encode_text(self, batch: Batch) -> TextFeatures:
        """Text features of a batch: cached ones, or the encoder's output for its captions."""
        if batch.text is not None:
            return batch.text.padded(longest(batch.text.tokens.shape[1]))
        return self.encode_captions(batch.caption)

    def encode_captions(self, captions: Sequence[str]) -> TextFeatures:
        """Text features of captions; overridden where a family needs more than its text encoder."""
        return self.text_encoder.encode(list(captions))

    def drop_text(self, text: TextFeatures) -> TextFeatures:
        """Replaces each caption by the null text with ``null_text_probability``.

        Source: Ho and Salimans 2022 (classifier-free guidance), algorithm 1.
        Differs: none.
        """
        if self.null_text_probability == 0:
            return text
        draws = own_rows(lambda n: torch.rand(n, device=text.pooled.device), len(text))
        keep = draws >= self.null_text_probability
        return text.where(keep, self.null_like(text))

    def null_like(self, text: TextFeatures) -> TextFeatures:
        """The unconditional input in place of each caption: the text encoder's, by default."""
        return self.text_encoder.null(len(text)).to(text.tokens.device)

    def optimise(
        self,
        optimizer: Optimizer,
        loss: Tensor | Iterable[Tensor],
        parameters: Sequence[nn.Parameter],
    ) -> Tensor:
        """Performs one optimiser step: zero gradients, backward, clip, step.

        Args:
            optimizer: steps ``parameters``.
            loss: a loss, or the losses of the parts of a batch, which sum up to it; each is
                computed after the one before it has been differentiated, so that memory holds one.
            parameters: what the optimiser steps.

        Returns:
            Norm of the gradient before clipping, a scalar on the device. It is not finite where
            16-mixed skips the step.
        """
        optimizer.zero_grad(set_to_none=True)
        for part in (loss,) if isinstance(loss, Tensor) else loss:
            self.manual_backward(part)
        moved = stepped(optimizer) or parameters
        # Before the step, which unscales gradients and changes the scale for the next player.
        norm = self.gradient_norm(moved)
        if self.gradient_clip_norm > 0:
            torch.nn.utils.clip_grads_with_norm_(moved, self.gradient_clip_norm, norm)
        optimizer.step()
        return whole(norm)

    @property
    def loss_scaler(self) -> Any:
        """``torch.amp.GradScaler`` of 16-mixed; None elsewhere."""
        return getattr(getattr(self._trainer, "precision_plugin", None), "scaler", None)

    def gradient_norm(self, parameters: Iterable[Tensor]) -> Tensor:
        """Global norm of the gradients of a loss, whatever it was scaled by (16-mixed)."""
        norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
        scaler = self.loss_scaler
        return norm if scaler is None else norm / scaler.scale(torch.ones_like(norm))

    def alarms(self, logged: Mapping[str, float]) -> dict[str, str]:
        """Warnings of a training that fails without an error, a sentence by its kind; none here.

        Args:
            logged: means of what ``training_step`` returned, over one logging interval.

        Returns:
            Sentences that name a setting to turn. Each kind is told once a training.
        """
        return {}

    @torch.no_grad()
    def generate(
        self,
        text: TextFeatures | Sequence[str],
        noise: Noise,
        knobs: Mapping[str, float] | None = None,
        *,
        size: tuple[int, int] | None = None,
        edit: Edit | None = None,
    ) -> Images:
        """Images (B, 3, H, W) in [-1, 1] for prompts or their features.

        Image i is a function of (weights, prompt i, seed i, knobs, edit i) alone.

        Args:
            text: B prompts or their features.
            noise: per-sample noise of the B images.
            knobs: overrides of the declared defaults.
            size: height and width in pixels where it is not the training resolution; an image
                edit uses its image's size.
            edit: an edit that ``edits`` names; None: none.

        Raises:
            ConfigError: a knob, a size or an edit that the family does not have, or a value out
                of range.
            NonFiniteLossError: the sampler gave NaN or infinite pixels.
        """
        values = resolve_knobs(self.knobs, knobs)
        asked: dict[str, Any] = {}
        if edit is not None:
            self._check_offered(edit.name)
            if isinstance(edit, PromptMixing) and edit.by not in self.mixings:
                raise ConfigError(
                    f"by={edit.by}: {type(self).__name__} mixes prompts by "
                    f"{' or '.join(self.mixings)}; set by={self.mixings[0]}."
                )
            asked["edit"] = edit
        if size is not None and tuple(size) != (self.resolution, self.resolution):
            self._check_offered("size")
            asked["size"] = tuple(size)
        was_training = self.training
        self.eval()
        try:
            if not isinstance(text, TextFeatures):
                text = self.encode_captions(text)
            if edit is not None:
                edit.check_count(len(text))
            images = self.sample(text, noise, values, **asked).clamp(-1, 1)
        finally:
            self.train(was_training)
        # Meta tensors have shapes alone (`t2ibench info`).
        if not images.is_meta and not torch.isfinite(images).all():
            raise NonFiniteLossError(
                f"{type(self).__name__} generated pixels that are not finite; lower the learning "
                "rate or the guidance knob and look at the loss curve."
            )
        return images

    def _check_offered(self, edit: str) -> None:
        if edit not in self.edits:
            raise ConfigError(
                f"{type(self).__name__} offers no {edit}; it has "
                f"{', '.join(sorted(self.edits)) or 'no edits'}."
            )


def generate_pixels(
    module: TextToImageModule,
    prompts: Sequence[str],
    seeds: Sequence[int],
    knobs: Mapping[str, float] | None = None,
    batch_size: int = 64,
    on_progress: Callable[[int], None] | None = None,
    *,
    size: tuple[int, int] | None = None,
    edit: Edit | None = None,
) -> PixelImages:
    """Generates images for any number of prompts, as uint8 pixels.

    Args:
        module: a family.
        prompts: one for each image.
        seeds: one for each image (``core.noise.sample_seeds``).
        knobs: overrides of the declared defaults.
        batch_size: how many at a time; does not change the images.
        on_progress: called with the number of images done.
        size: see ``TextToImageModule.generate``.
        edit: an edit of all N images; None: none.

    Returns:
        (N, 3, H, W) uint8 on the CPU.
    """
    pieces = []
    for start in range(0, len(prompts), batch_size):
        chunk = slice(start, start + batch_size)
        noise = SeededNoise(seeds[chunk], device=module.device)
        part = None if edit is None else edit.rows(chunk)
        images = module.generate(list(prompts[chunk]), noise, knobs, size=size, edit=part)
        pieces.append(to_pixels(images).cpu())
        if on_progress is not None:
            on_progress(min(start + batch_size, len(prompts)))
    return torch.cat(pieces)
