"""One small run that is trained and scored, of which tests damage copies."""

import pytest
from by_words import FEW

from t2ibench.cli.compose import compose_spec
from t2ibench.engine.study import scored_cell


@pytest.fixture(scope="session")
def whole(tmp_path_factory, shared_cache):
    """Its folder, with a text encoder of its own; beside it lies its first stage's."""
    root = tmp_path_factory.mktemp("whole") / "runs"
    words = [*FEW, f"paths.runs={root}", f"paths.cache={shared_cache}"]
    return scored_cell(compose_spec(words))[0].run.path
