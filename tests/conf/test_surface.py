"""The surface that users type against changes by decision only."""

from surface import SURFACE, surface

from t2ibench.cli.verbs.sample import EDIT_OPTIONS
from t2ibench.engine.edits import OPTIONS


def test_the_surface_is_the_one_that_is_written_down():
    known, found = set(SURFACE.read_text().splitlines()), set(surface())
    remedy = "say it in CHANGELOG.md and run python tests/surface.py"
    assert not known - found, f"gone: {sorted(known - found)[:9]}; {remedy}"
    assert not found - known, f"new: {sorted(found - known)[:9]}; {remedy}"


def test_the_options_of_edits_are_those_of_the_engine():
    assert set(EDIT_OPTIONS) == set(OPTIONS)
