import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def study(tmp_path_factory):
    """Three families, one with three seeds, in run folders of the real schema."""
    from run_folders import write_study

    return write_study(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="session")
def analysis(study):
    """What the study's scores support."""
    from t2ibench.reporting import analyse, gather

    return analyse(*gather(study))


@pytest.fixture(scope="session")
def content(analysis):
    """The study's tables and sentences."""
    from t2ibench.reporting.render.content import Content

    return Content(analysis)


@pytest.fixture(scope="session")
def leaderboard(analysis):
    """The study's rows and columns."""
    return analysis.leaderboard


@pytest.fixture
def incomplete(tmp_path):
    """A folder of two models by three seeds, of which one failed."""
    from run_folders import write_incomplete

    return write_incomplete(tmp_path)
