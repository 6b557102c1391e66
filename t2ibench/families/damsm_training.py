"""Training of a DAMSM; the data are handed in, never fetched."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from t2ibench.core.errors import NonFiniteLossError
from t2ibench.core.hashing import derive_seed
from t2ibench.core.pixels import from_pixels
from t2ibench.families.damsm import DAMSM, alike
from t2ibench.metrics.dual_encoder_training import DrawBatch, TrainingState

log = logging.getLogger(__name__)

TOLD_EVERY = 50
"""Steps between two lines of the log."""


@dataclass(frozen=True)
class DAMSMPlan:
    """Recipe of a DAMSM's training.

    Attributes:
        steps: optimiser steps.
        learning_rate: of Adam, at first.
        betas: Adam's.
        decay: what an epoch leaves of the learning rate.
        least_rate: share of the learning rate below which it does not fall.
        epoch_steps: steps of an epoch.
        text_clip_norm: greatest gradient norm of the text encoder.
        flip: whether half of the images are mirrored.
        seed: of weights, batches, long captions' words and dropout.
    """

    steps: int
    learning_rate: float
    betas: Sequence[float]
    decay: float
    least_rate: float
    epoch_steps: int
    text_clip_norm: float
    flip: bool
    seed: int

    def rate(self, step: int) -> float:
        """Factor of the learning rate."""
        return max(self.least_rate, self.decay ** (step // self.epoch_steps))


def train_damsm(
    network: DAMSM,
    draw: DrawBatch,
    plan: DAMSMPlan,
    *,
    device: torch.device,
    resumed: TrainingState | None = None,
    keep: Callable[[Callable[[], TrainingState]], None] | None = None,
) -> DAMSM:
    """Trains a DAMSM on batches that ``draw`` gives.

    Args:
        network: with its initial weights; it is changed.
        draw: one batch from a random generator; it must read the training split only.
        plan: the recipe.
        device: where to train.
        resumed: what ``keep`` kept of the same training, to go on from there.
        keep: called after each step with what makes the state, if it is to be kept.

    Returns:
        The network on the CPU, frozen.

    Raises:
        NonFiniteLossError: the loss became NaN or infinite.

    Source: Xu et al. 2018 (AttnGAN), section 3.2; recipe of the authors' code.
    Differs: Adam's moments live through epochs; images are not cropped.
    """
    network.to(device).train()
    trained = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(
        trained, lr=plan.learning_rate, betas=(plan.betas[0], plan.betas[1])
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: plan.rate(step))
    rng = np.random.default_rng(derive_seed("damsm batches", plan.seed))
    done = 0
    if resumed is not None:
        done = resumed["steps"]
        network.load_state_dict(resumed["encoder"])
        optimizer.load_state_dict(resumed["optimizer"])
        schedule.load_state_dict(resumed["schedule"])
        rng.bit_generator.state = resumed["batches"]

    def state() -> TrainingState:
        return {
            "steps": done,
            "encoder": network.state_dict(),
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "batches": rng.bit_generator.state,
        }

    for step in range(done, plan.steps):
        torch.manual_seed(derive_seed("damsm step", plan.seed, step))  # dropout's
        batch = draw(rng)
        images = from_pixels(batch.pixels).to(device)
        if plan.flip:
            mirrored = torch.from_numpy(rng.random(len(images)) < 0.5).to(device)
            images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
        text = network.text(*network.text.ids(batch.captions, rng))
        same = alike(batch.captions)
        seen = network.see(images)
        losses = network.losses(seen, text, None if same is None else same.to(device))
        loss = losses.words + losses.sentence
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.text.parameters(), plan.text_clip_norm)
        optimizer.step()
        schedule.step()
        if step % TOLD_EVERY == TOLD_EVERY - 1 or step == plan.steps - 1:
            words, sentence = float(losses.words.detach()), float(losses.sentence.detach())
            if not math.isfinite(words + sentence):
                raise NonFiniteLossError(
                    f"DAMSM: the loss is {words + sentence} at step {step + 1}; lower "
                    "parts.damsm.training.learning_rate."
                )
            told = (step + 1, plan.steps, words, sentence)
            log.info("DAMSM step %d/%d words %.3f sentence %.3f", *told)
        done = step + 1
        if keep is not None:
            keep(state)
    return network.cpu().eval().requires_grad_(False)


def retrieval_in(network: DAMSM, batch: Any) -> float:
    """Share of images whose own caption, of a batch's different ones, has the nearest vector.

    Args:
        network: a trained DAMSM, on the device of its parameters.
        batch: pixels and captions, as ``draw`` gives them.
    """
    device = network.text.embedding.weight.device
    captions = list(dict.fromkeys(batch.captions))
    own = torch.tensor([captions.index(caption) for caption in batch.captions])
    with torch.no_grad():
        whole = network.see(from_pixels(batch.pixels).to(device)).whole.float()
        text = network.text.encode(captions).pooled.float()
    nearest = (nn.functional.normalize(whole) @ nn.functional.normalize(text).T).argmax(1)
    return float((nearest.cpu() == own).float().mean())
