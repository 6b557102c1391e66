import multiprocessing
import time

import numpy as np
import pytest
import torch

from t2ibench.core.errors import DataError
from t2ibench.data.cache import ArrayCache


def test_built_once_and_read_back_exactly(tmp_path):
    calls = []

    def build():
        calls.append(1)
        return {"latents": torch.randn(3, 2), "codes": np.arange(6).reshape(2, 3)}

    first = ArrayCache(tmp_path).get_or_build("data=a|net=b/c", build)
    again = ArrayCache(tmp_path).get_or_build("data=a|net=b/c", build)
    assert len(calls) == 1
    assert np.array_equal(first["latents"], again["latents"])
    assert again["codes"].dtype == np.int64 and again["codes"].tolist() == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(ValueError, match="read-only"):
        again["codes"][0, 0] = 9


def test_keys_that_look_alike_do_not_collide(tmp_path):
    cache = ArrayCache(tmp_path)
    for key in ("a/b", "a_b", "a b"):
        cache.get_or_build(key, lambda key=key: {"x": np.array([len(key), ord(key[1])])})
    assert [cache.get(key)["x"][1] for key in ("a/b", "a_b", "a b")] == [47, 95, 32]


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "index"])
def test_a_damaged_entry_is_built_again(tmp_path, damage):
    cache = ArrayCache(tmp_path)
    cache.get_or_build("k", lambda: {"x": np.arange(100.0)})
    file = cache.path("k") / "x.npy"
    if damage == "flip":
        raw = bytearray(file.read_bytes())
        raw[-1] ^= 1
        file.write_bytes(raw)
    elif damage == "truncate":
        file.write_bytes(file.read_bytes()[:200])
    elif damage == "delete":
        file.unlink()
    else:
        (cache.path("k") / "index.json").write_text("{")
    assert cache.get("k") is None
    assert cache.get_or_build("k", lambda: {"x": np.arange(100.0)})["x"][99] == 99


def test_a_builder_that_fails_leaves_nothing(tmp_path):
    def fail():
        raise RuntimeError("out of memory")

    cache = ArrayCache(tmp_path)
    with pytest.raises(RuntimeError, match="out of memory"):
        cache.get_or_build("k", fail)
    with pytest.raises(DataError, match="objects"):
        cache.get_or_build("k", lambda: {"x": np.array([{}], dtype=object)})
    with pytest.raises(DataError, match="no arrays"):
        cache.get_or_build("k", dict)
    assert cache.get("k") is None
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def _build_slowly(root, log):
    def build():
        with open(log, "a") as file:
            file.write("built\n")
        time.sleep(0.3)
        return {"x": np.ones(3)}

    ArrayCache(root).get_or_build("shared", build)


def test_two_processes_build_once(tmp_path):
    context = multiprocessing.get_context("fork")
    jobs = [
        context.Process(target=_build_slowly, args=(tmp_path / "c", tmp_path / "log"))
        for _ in range(3)
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert [job.exitcode for job in jobs] == [0, 0, 0]
    assert (tmp_path / "log").read_text() == "built\n"
