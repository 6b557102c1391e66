"""Runs of a configuration's words, as the verbs make them."""

from t2ibench.cli.compose import compose_spec
from t2ibench.engine.context import Context
from t2ibench.engine.identity import named_run
from t2ibench.engine.load import open_run
from t2ibench.engine.train import train


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
