"""The smallest honest family, and its training; shared by the tests of training."""

import numpy as np
import torch
from torch import nn

from t2ibench.core.noise import SeededNoise
from t2ibench.data.records import PreparedSplit, Record
from t2ibench.data.stream import BatchStream
from t2ibench.families.contract import TextToImageModule
from t2ibench.runs.folder import Run
from t2ibench.text.word import WordTransformer
from t2ibench.training.fit import TrainingOptions, fit

WORDS = ["red", "blue", "a", "ring"]


class Painter(TextToImageModule):
    """A linear map from text and noise to pixels: the smallest honest family."""

    family = "painter"

    def __init__(self, explode_after=None, **kwargs):
        super().__init__(**kwargs)
        self.paint = nn.Linear(self.text_encoder.width + 4, 3 * self.resolution**2)
        self.explode_after = explode_after
        self.steps = 0

    @property
    def knobs(self):
        return ()

    def forward(self, text, noise):
        size = self.resolution
        return self.paint(torch.cat([text.pooled, noise], -1)).view(-1, 3, size, size)

    def training_step(self, batch, batch_idx):
        text = self.drop_text(self.encode_text(batch))
        loss = (self(text, torch.randn(len(batch), 4)) - batch.image).square().mean()
        self.steps += 1
        if self.explode_after is not None and self.steps > self.explode_after:
            loss = loss * float("nan")
        self.optimise(self.optimizers(), loss, list(self.parameters()))
        return {"loss": loss.detach()}

    def sample(self, text, noise, knobs):
        return self(text, noise.normal(4))

    def validation_losses(self, batch):
        noise = SeededNoise(batch.index.tolist()).normal(4)
        made = self(self.encode_text(batch), noise)
        return {"val_loss": (made - batch.image).square().mean()}

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


def make_split():
    """40 images of 8 px."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 3, 8, 8), dtype=np.uint8)
    records = [Record(f"k{i}", ("a red ring", "a blue ring"), f"g{i}", "train") for i in range(40)]
    return PreparedSplit("toy/train", images, records)


def painter(**kwargs):
    torch.manual_seed(3)
    encoder = WordTransformer(vocabulary=WORDS, width=16, depth=1, heads=2, max_length=8)
    return Painter(
        text_encoder=encoder,
        resolution=8,
        null_text_probability=0.1,
        gradient_clip_norm=1.0,
        **kwargs,
    )


OPTIONS = TrainingOptions(
    warmup_images=32,
    decay="cosine",
    ema_half_life_images=50,
    log_every_images=16,
    checkpoint_every_seconds=1e9,
    accelerator="cpu",
    devices=1,
    precision="32-true",
    progress=False,
)


def make_run(root, name="toy"):
    return Run.named(root, name, {"name": name}).begin({"name": "toy"})


def train(split, root, budget, name="toy", module=None, options=OPTIONS, each_batch=None, **kw):
    run = make_run(root, name)
    module = module or painter()

    def stream(images_seen, rank, world_size):
        batches = BatchStream(split, batch_size=8, seed=5, images_seen=images_seen)
        return batches if each_batch is None else each_batch(batches)

    return run, module, fit(module, stream, run, budget, options, seed=1, **kw)
