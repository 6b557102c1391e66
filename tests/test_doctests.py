"""The examples in docstrings are true."""

import doctest
from importlib import import_module
from pathlib import Path

import pytest

import t2ibench

ROOT = Path(t2ibench.__file__).parent
FEWEST = 45
"""Docstrings with an example."""

FILES = sorted(p for p in ROOT.rglob("*.py") if ">>> " in p.read_text(encoding="utf-8"))


def module_of(path):
    return import_module(".".join(path.relative_to(ROOT.parent).with_suffix("").parts))


SLOW = ROOT / "api.py"
"""Examples that train; they have a test of their own."""


@pytest.mark.parametrize(
    "path", [p for p in FILES if p != SLOW], ids=lambda p: str(p.relative_to(ROOT))
)
def test_examples_are_true(path):
    found = doctest.testmod(module_of(path), optionflags=doctest.ELLIPSIS)
    assert found.attempted > 0 and found.failed == 0, "the differences are printed above"


def test_examples_of_the_python_face_are_true(tmp_path, shared_cache, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("T2IBENCH_RUNS", "runs")
    monkeypatch.setenv("T2IBENCH_CACHE", str(shared_cache))
    world = [f"data.source.num_{s}={n}" for s, n in (("train", 96), ("val", 32), ("test", 64))]
    tiny = ["debug=smoke", "trainer.progress=false", *world]
    finished = t2ibench.train(*tiny, model="gan/fast_painter", seed=0).path
    names = {"t2ibench": t2ibench, "finished": finished, "tiny": tiny, "world": world}
    found = doctest.testmod(module_of(SLOW), extraglobs=names, optionflags=doctest.ELLIPSIS)
    assert found.attempted > 10 and found.failed == 0, "the differences are printed above"


def test_there_are_enough_examples_and_all_are_found():
    finder = doctest.DocTestFinder(exclude_empty=True)
    tests = [test for path in FILES for test in finder.find(module_of(path)) if test.examples]
    assert len(tests) >= FEWEST
    written = sum(p.read_text(encoding="utf-8").count("Example:\n") for p in FILES)
    assert len(tests) == written, "an example that is written but not run, or without its heading"
