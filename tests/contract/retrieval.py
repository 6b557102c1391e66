"""A generator without training: the training image whose captions share most words."""

import numpy as np
import torch

from t2ibench.core.hashing import derive_seed
from t2ibench.core.knobs import Knob
from t2ibench.core.pixels import from_pixels
from t2ibench.core.types import TextFeatures
from t2ibench.families.contract import TextToImageModule

BUCKETS = 128


class Retrieval(TextToImageModule):
    """Looks images up; ties, and with ``chance`` more than ties, are decided by the noise."""

    family = "retrieval"
    trains = False
    sampling_arguments = frozenset({"chance"})

    def __init__(self, *, text_encoder, resolution, rare_words, chance):
        super().__init__(
            text_encoder=text_encoder,
            resolution=resolution,
            null_text_probability=0.0,
            gradient_clip_norm=0.0,
        )
        self.rare_words = rare_words
        self.default_chance = chance
        self.register_buffer("weights", torch.ones(BUCKETS))

    @property
    def knobs(self):
        return (Knob("chance", self.default_chance, 0.0, 100.0, True, (0.01, 1.0, 100.0)),)

    def build_index(self, train, folder):
        folder.mkdir(parents=True, exist_ok=True)
        words = bag([" ".join(record.captions) for record in train.records])
        np.save(folder / "words.npy", words.numpy())
        np.save(folder / "pixels.npy", train.pixels(slice(0, len(train))).numpy())
        if self.rare_words:
            seen = torch.ones(1, len(train)) @ words
            self.weights.copy_((len(train) / (1 + seen[0])).log1p())

    def open_index(self, folder):
        self.words = np.load(folder / "words.npy", mmap_mode="r")
        self.pixels = np.load(folder / "pixels.npy", mmap_mode="r")

    def encode_captions(self, captions):
        words = bag(captions).to(self.device)
        return TextFeatures(words[:, None], words.new_ones(len(words), 1).bool(), words)

    def sample(self, text, noise, knobs):
        known = torch.from_numpy(np.array(self.words)).to(self.device)
        alike = (text.pooled * self.weights) @ known.T
        chosen = (alike + knobs["chance"] * noise.uniform(len(known))).argmax(1)
        return from_pixels(torch.from_numpy(self.pixels[chosen.cpu().numpy()])).to(self.device)

    def training_step(self, batch, batch_idx):
        raise AssertionError("a generator without training takes no steps")

    def configure_optimizers(self):
        raise AssertionError("a generator without training has no optimiser")


def bag(captions):
    """Which words (K buckets of them) each caption has."""
    rows = torch.zeros(len(captions), BUCKETS)
    for row, caption in zip(rows, captions, strict=True):
        for word in caption.split():
            row[derive_seed("word", word) % BUCKETS] = 1
    return rows
