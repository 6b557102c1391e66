import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def study(tmp_path_factory):
    """Three families, one with three seeds, in run folders of the real schema."""
    from run_folders import write_study

    return write_study(tmp_path_factory.mktemp("runs"))
