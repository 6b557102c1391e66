"""Runs of a configuration's words, as the verbs make them."""

from t2ibench.cli.compose import compose_spec
from t2ibench.engine.context import Context
from t2ibench.engine.identity import named_run
from t2ibench.engine.load import open_run
from t2ibench.engine.train import train

FEW = [
    "model=diffusion/fast_unet", "budget=images", "budget.amount=32",
    "budget.first_stage_images=16", "model.training.batch_size=16",
    "data.source.num_train=32", "data.source.num_val=16", "data.source.num_test=16",
    "protocol.test.num_images=16", "protocol.test.reference_size=16",
    "protocol.front.num_images=8", "protocol.front.reference_size=8", "protocol.knob_sweep=[2]",
    "protocol.cost_seconds=0.01", "knobs.num_steps=1", "trainer=cpu", "trainer.progress=false",
    "trainer.log_every_images=16",
]  # fmt: skip
"""Words of a small run with parts of its own."""


def context_of(words):
    """The context of a configuration on this machine."""
    return Context.of(compose_spec(list(words)))


def run_of(words):
    """The run of a configuration, there or not."""
    return named_run(context_of(words))


def trained(words):
    """The trained run of a configuration."""
    return train(context_of(words))


def module_of(run):
    """The module of a run's folder alone."""
    return open_run(run).module
