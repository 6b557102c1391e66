"""Tiny published-format encoders, written once a session."""

import pytest
from text.tiny import save_bert, save_clip, save_open_clip, save_t5


@pytest.fixture(scope="session")
def hub(tmp_path_factory):
    """Folders clip, open_clip, t5 and bert; the first two hold the same weights."""
    root = tmp_path_factory.mktemp("hub")
    save_clip(root / "clip", save_open_clip(root / "open_clip"))
    save_t5(root / "t5")
    save_bert(root / "bert")
    return root
