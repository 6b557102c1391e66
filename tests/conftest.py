"""Shared settings: one thread a test process, no network, no W&B."""

import logging
import os

os.environ.setdefault("WANDB_MODE", "disabled")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HYDRA_FULL_ERROR", "1")

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("t2ibench", deadline=None, max_examples=25, derandomize=True)
settings.load_profile("t2ibench")


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory):
    """One cache folder a session, so that a data set is rendered once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def no_handler_outlives_its_test():
    """Removes log handlers of a verb that ran in this process: their stream ends with the test."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    yield
    for handler in root.handlers[:]:
        if type(handler) is logging.StreamHandler and handler not in before:
            root.removeHandler(handler)
            root.setLevel(level)
