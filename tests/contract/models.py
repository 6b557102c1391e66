"""Every model of conf/model in small: few pixels, few images, untrained parts."""

import os
import signal

import torch

from t2ibench.cli.compose import config_dir, untrained_context
from t2ibench.data.stream import BatchStream
from t2ibench.engine.assemble import untrained_module
from t2ibench.engine.context import Context
from t2ibench.engine.fitting import cached_targets, options_of
from t2ibench.runs.clock import Budget
from t2ibench.runs.folder import Run
from t2ibench.training.fit import fit

OWN = {
    str(path.relative_to(config_dir() / "model").with_suffix("")): path.read_text()
    for path in sorted((config_dir() / "model").glob("*/*.yaml"))
}
# A file with those that it begins with.
FILES = {
    name: text + "".join(base for other, base in OWN.items() if f"\n  - {other}@_here_\n" in text)
    for name, text in OWN.items()
}
MODELS = list(FILES)
CONDITIONINGS = ("concat", "modulation", "cross_attention")
PROMPTS = ["a large red ring", "", "a small blue moon " * 40, "a zyzzyva"]
SIDE, BATCH, STEPS = 16, 4, 4
SIDES = {"gan/stack_gan_2": 32}
"""Sides of models that cannot make so small an image."""


def conditionings(model):
    """All that a model can be given; its own alone where it reads no text."""
    return CONDITIONINGS if "${conditioning}" in FILES[model] else (None,)


def one_rate(text):
    """Whether a paper's model has one optimiser; the two players of a GAN keep their rates."""
    return "origin: paper" in text and "\n  optimizer:" in text


def words(model, conditioning, cache):
    """The command line of a model in small; latent ones on the first stage that is the smallest."""
    text = FILES[model]
    return [
        f"model={model}",
        *([] if conditioning is None else [f"conditioning={conditioning}"]),
        *(["autoencoder=kl_f2"] if "autoencoder: kl_f" in text else []),
        # Asked for eps in pure noise, an untrained network would drive every pixel to its bounds.
        *(["model.module.process.clip_sample=true"] if "  process:" in text else []),
        *([f"parts.clip.network.image_size={SIDE}"] if "clip: " in text else []),
        *(["parts.damsm.network.image.channels=8"] if "damsm: " in text else []),
        # A base of at least the world's least side.
        *(["model.module.upscale=2"] if "\n  upscale:" in text and model not in SIDES else []),
        f"data.resolution={SIDES.get(model, SIDE)}",
        # Layers that begin at zero hide those before them, at papers' rates for longer than a test.
        "model.training.warmup_images=0",
        *(["model.module.optimizer.lr=0.01"] if one_rate(text) else []),
        "data.source.num_train=48",
        "data.source.num_val=8",
        "data.source.num_test=8",
        f"paths.cache={cache}",
        f"paths.runs={cache}/runs",
        "trainer=cpu",
        "trainer.progress=false",
    ]


class Case:
    """A model whose configuration is composed once; each module made of it is a new one."""

    def __init__(self, model, conditioning, cache, *extra):
        self.composed = untrained_context([*words(model, conditioning, cache), *extra])
        self.spec, self.source = self.composed.spec, self.composed.source

    def context(self):
        """A context in which nothing is made yet but the data set."""
        context = Context(self.spec, example=self.composed.example)
        context.source = self.source
        return context

    def module(self):
        """The family with its initial weights, its parts unmeasured."""
        return untrained_module(self.context())

    def batches(self, module, images_seen=0):
        """The training stream, with what the model's parts made of the images."""
        split = self.source.split("train")
        targets = cached_targets(self.composed, module, split)
        return BatchStream(
            split, batch_size=BATCH, seed=0, images_seen=images_seen, targets=targets
        )

    def train(self, root, images, interrupt_at=None):
        """The run, the module and what fitting it gave, interrupted at a batch or not."""
        module, run = self.module(), Run.named(root, "contract", {}).begin({})

        def stream(images_seen, rank, world_size):
            for i, batch in enumerate(self.batches(module, images_seen)):
                if i == interrupt_at:
                    os.kill(os.getpid(), signal.SIGUSR1)
                yield batch

        options = options_of(self.composed, self.spec.model.training)
        return run, module, fit(module, stream, run, Budget("images", images), options, seed=0)


def few(module):
    """Knobs of little work, of a stage's base and a prior as of the model itself."""
    return {knob.name: STEPS for knob in module.knobs if knob.name.endswith("num_steps")}


def stirred(module):
    """The module with all layers moved off zero, where they would hide noise and text."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return module
