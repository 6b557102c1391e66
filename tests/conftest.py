"""Shared settings: one thread a test process, no network, no W&B."""

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
