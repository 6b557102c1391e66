"""Training and acceptance of a dual encoder; the data are handed in, never fetched."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from t2ibench.core.errors import ConfigError, NonFiniteLossError
from t2ibench.core.hashing import derive_seed
from t2ibench.core.types import PixelImages
from t2ibench.metrics.alignment import DISTRACTORS, draw_distractors, r_precision
from t2ibench.metrics.dual_encoder import DualEncoder, Vocabulary, split_words

log = logging.getLogger(__name__)

MAX_LOGIT_SCALE = math.log(100.0)
"""Largest logit scale: the temperature is clipped at 1/100 (Radford et al. 2021, section 2.5)."""


@dataclass(frozen=True)
class ContrastiveBatch:
    """Images with true captions and with nearly true ones.

    Attributes:
        pixels: (B, 3, H, W) uint8.
        captions: B true captions.
        hard_negatives: B captions with a changed attribute or relation, or none.
    """

    pixels: PixelImages
    captions: Sequence[str]
    hard_negatives: Sequence[str] = ()


DrawBatch = Callable[[np.random.Generator], ContrastiveBatch]

TrainingState = dict[str, Any]
"""Everything that a training depends on after a step: tensors and plain containers."""


@dataclass(frozen=True)
class TrainingPlan:
    """Settings of a dual encoder's training.

    Attributes:
        steps: optimizer steps.
        learning_rate: peak of the cosine after the warm-up.
        warmup_steps: linear warm-up.
        weight_decay: of matrices; vectors have none.
        noise: standard deviation of the noise added to half of the images, in 0..255; it
            keeps features steady under the small errors of generated images.
        shift: images move by up to this many pixels each way, edges repeated; for few images.
        seed: of initial weights, batches, shifts and noise.
    """

    steps: int = 1000
    learning_rate: float = 1.5e-3
    warmup_steps: int = 50
    weight_decay: float = 0.05
    noise: float = 8.0
    shift: int = 0
    seed: int = 0


def contrastive_loss(
    image: Float[Tensor, "B D"],
    text: Float[Tensor, "T D"],
    logit_scale: Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """InfoNCE loss in both directions, with hard negatives as further captions for the images.

    ``L = (CE(s I T', i) + CE(s T_B I', i)) / 2`` with s = exp(logit_scale); T holds the B
    true captions and then any number of hard negatives, which no image owns.

    Args:
        image: (B, D) unit features.
        text: (T, D) unit features, T >= B, the first B belong to the images in order.
        logit_scale: log of the inverse temperature.

    Source: Radford et al. (2021), figure 3; hard negative captions: Yuksekgonul et al. (2023),
    "When and why vision-language models behave like bags-of-words", section 4.
    Differs: negatives are added for captions only, not for images.
    """
    logits = logit_scale.exp() * image @ text.T
    truth = torch.arange(len(image), device=image.device)
    by_image = nn.functional.cross_entropy(logits, truth)
    by_text = nn.functional.cross_entropy(logits[:, : len(image)].T, truth)
    return (by_image + by_text) / 2


def swap_words(
    caption: str, classes: Sequence[Sequence[str]], rng: np.random.Generator
) -> str | None:
    """A caption with one word changed within its class, or two of one class exchanged.

    Where a class occurs twice with different words, half of the draws exchange the two (the
    binding is wrong, the words are right); else one word becomes another of its class.

    Args:
        caption: a true caption.
        classes: words that may stand for one another: colours, shapes, sizes, numbers.
        rng: of the draw.

    Returns:
        The changed caption in lower-case words, or None where no class occurs.
    """
    words = split_words(caption)
    present = [c for c in classes if any(word in c for word in words)]
    if not present:
        return None
    members = present[int(rng.integers(len(present)))]
    places = [i for i, word in enumerate(words) if word in members]
    position = places[int(rng.integers(len(places)))]
    partners = [i for i in places if words[i] != words[position]]
    if partners and rng.random() < 0.5:
        other = partners[int(rng.integers(len(partners)))]
        words[position], words[other] = words[other], words[position]
    else:
        others = [word for word in members if word != words[position]]
        words[position] = others[int(rng.integers(len(others)))]
    return " ".join(words)


def train_dual_encoder(
    name: str,
    config: Mapping[str, Any],
    vocabulary: Vocabulary,
    draw: DrawBatch,
    plan: TrainingPlan,
    *,
    start: DualEncoder | None = None,
    device: str = "cpu",
    resumed: TrainingState | None = None,
    keep: Callable[[Callable[[], TrainingState]], None] | None = None,
) -> DualEncoder:
    """Trains a dual encoder on batches that ``draw`` gives.

    Args:
        name: name and version of the encoder.
        config: see ``dual_encoder.build_clip``.
        vocabulary: words to token ids.
        draw: one batch from a random generator; it must read the train split only.
        plan: steps, rates, seed.
        start: an encoder to go on from (it is changed), or None: from nothing.
        device: where to train.
        resumed: what ``keep`` kept of the same training, to go on from there.
        keep: called after each step with what makes the state, if it is to be kept.

    Returns:
        The encoder on the CPU, in evaluation mode.

    Raises:
        NonFiniteLossError: the loss became NaN or infinite.
    """
    encoder = start or _fresh(name, config, vocabulary, plan.seed)
    encoder = encoder.requires_grad_(True).to(device).train()
    optimizer = _optimizer(encoder, plan)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, plan))
    rng = np.random.default_rng(derive_seed("dual-encoder batches", plan.seed))
    noise = torch.Generator().manual_seed(derive_seed("dual-encoder noise", plan.seed))
    done = 0
    if resumed is not None:
        done = resumed["steps"]
        encoder.load_state_dict(resumed["encoder"])
        optimizer.load_state_dict(resumed["optimizer"])
        schedule.load_state_dict(resumed["schedule"])
        rng.bit_generator.state = resumed["batches"]
        noise.set_state(resumed["noise"])

    def state() -> TrainingState:
        return {
            "steps": done,
            "encoder": encoder.state_dict(),
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "batches": rng.bit_generator.state,
            "noise": noise.get_state(),
        }

    began = time.monotonic()
    for step in range(done, plan.steps):
        batch = draw(rng)
        pixels = _shifted(batch.pixels, plan.shift, rng)
        pixels = _disturbed(pixels, plan.noise, noise).to(device)
        captions = [*batch.captions, *batch.hard_negatives]
        text = encoder.clip.encode_text(vocabulary(captions).to(device), normalize=True)
        loss = contrastive_loss(encoder(pixels), text, encoder.clip.logit_scale)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            encoder.clip.logit_scale.clamp_(max=MAX_LOGIT_SCALE)
        if step % 50 == 49 or step == plan.steps - 1:
            value = float(loss.detach())
            if not math.isfinite(value):
                raise NonFiniteLossError(f"{name}: the loss is {value} at step {step + 1}.")
            spent = time.monotonic() - began
            log.info("%s step %d/%d loss %.3f, %.0f s", name, step + 1, plan.steps, value, spent)
        done = step + 1
        if keep is not None:
            keep(state)
    return encoder.cpu().eval().requires_grad_(False)


def _fresh(name: str, config: Mapping[str, Any], vocabulary: Vocabulary, seed: int) -> DualEncoder:
    """New weights from the seed, leaving the global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed("dual-encoder weights", seed))
        return DualEncoder(name, dict(config), vocabulary)


def _optimizer(encoder: DualEncoder, plan: TrainingPlan) -> torch.optim.Optimizer:
    matrices = [p for p in encoder.parameters() if p.ndim >= 2]
    vectors = [p for p in encoder.parameters() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": plan.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=plan.learning_rate, betas=(0.9, 0.98))


def _rate(step: int, plan: TrainingPlan) -> float:
    """Linear warm-up, then cosine to 1% of the peak."""
    if step < plan.warmup_steps:
        return (step + 1) / plan.warmup_steps
    progress = (step - plan.warmup_steps) / max(1, plan.steps - plan.warmup_steps)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def _shifted(pixels: Tensor, reach: int, rng: np.random.Generator) -> Tensor:
    """Every image moved by its own whole number of pixels in [-reach, reach] each way."""
    if reach == 0:
        return pixels
    side = pixels.shape[-1]
    padded = nn.functional.pad(pixels.float(), (reach,) * 4, mode="replicate").to(torch.uint8)
    corners = rng.integers(0, 2 * reach + 1, size=(len(pixels), 2))
    moved = [
        image[:, y : y + side, x : x + side]
        for image, (y, x) in zip(padded, corners.tolist(), strict=True)
    ]
    return torch.stack(moved)


def _disturbed(pixels: Tensor, deviation: float, stream: torch.Generator) -> Tensor:
    """Noise on every second image, its level uniform up to ``deviation``; stays uint8."""
    if deviation <= 0:
        return pixels
    disturbed = pixels.float()
    half = disturbed[::2]
    level = torch.rand(len(half), 1, 1, 1, generator=stream) * deviation
    half += torch.randn(half.shape, generator=stream) * level
    return disturbed.round().clamp(0, 255).to(torch.uint8)


def acceptance(
    encoder: DualEncoder,
    pixels: PixelImages,
    captions: Sequence[str],
    meanings: Sequence[Hashable],
    hard_negatives: Sequence[str | None],
    *,
    seed: int = 0,
) -> dict[str, float]:
    """Measures an encoder on real pairs that it has not seen.

    Args:
        encoder: the encoder.
        pixels: (N, 3, H, W) real test images.
        captions: N captions, full enough to tell the images apart.
        meanings: N keys; captions of equal meaning are never distractors of one another.
        hard_negatives: N captions with a changed attribute, None where there is none.
        seed: of the distractors.

    Returns:
        ``r@1-of-100`` (or ``r@1-of-K`` with fewer meanings), ``swapped_accuracy`` and
        ``clip_score`` for true and shuffled captions.

    Raises:
        ConfigError: the lists differ in length.
    """
    if not len(pixels) == len(captions) == len(meanings) == len(hard_negatives):
        raise ConfigError("acceptance needs one caption, meaning and hard negative an image.")
    image, text = encoder.image_features(pixels), encoder.text_features(list(captions))
    count = min(DISTRACTORS, len(set(meanings)) - 1)
    distractors = text[draw_distractors(meanings, count, seed)]
    changed = [i for i, caption in enumerate(hard_negatives) if caption is not None]
    negative = encoder.text_features([c for c in hard_negatives if c is not None])
    own, nearly = (image * text).sum(1), (image[changed] * negative).sum(1)
    return {
        f"r@1-of-{count + 1}": float(r_precision(image, text, distractors).mean()),
        "swapped_accuracy": float((own[changed] > nearly).float().mean()),
        "clip_score": float(100 * own.clamp(min=0).mean()),
        "clip_score_shuffled": float(100 * (image * text.roll(1, 0)).sum(1).clamp(min=0).mean()),
    }
