"""Checkpoint files: nothing in them runs, and what cannot be read is told in one sentence."""

import os
import pickle
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from t2ibench.core.errors import CheckpointError
from t2ibench.interop.files import read_tensors


class Runs:
    """Pickles as a call."""

    def __init__(self, call, *arguments):
        self.call = call, arguments

    def __reduce__(self):
        return self.call


def weights():
    torch.manual_seed(0)
    return {"a.weight": torch.randn(3, 2), "a.bias": torch.randn(3)}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_ckpt_gives_its_state_dict(tmp_path, legacy):
    path = tmp_path / "model.ckpt"
    content = {"state_dict": weights(), "global_step": 3, "betas": [0.1]}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    assert same(read_tensors(path), weights())


def test_a_bin_is_a_bare_state_dict_and_safetensors_needs_no_pickle(tmp_path):
    torch.save(weights(), tmp_path / "model.bin")
    save_file(weights(), tmp_path / "model.safetensors")
    assert same(read_tensors(tmp_path / "model.bin"), weights())
    assert same(read_tensors(tmp_path / "model.safetensors"), weights())


def test_the_training_frameworks_objects_in_real_files_are_read_over(tmp_path):
    from pytorch_lightning.callbacks import ModelCheckpoint

    path = tmp_path / "v1.ckpt"
    callbacks = {ModelCheckpoint: {"best_model_score": torch.ones(1), "best_model_path": "a"}}
    torch.save({"state_dict": weights(), "callbacks": callbacks}, path)
    with pytest.raises(pickle.UnpicklingError, match="ModelCheckpoint"):
        torch.load(path, weights_only=True)
    assert same(read_tensors(path), weights())
    left = [entry for entry in torch.serialization.get_safe_globals() if "Leftover" in repr(entry)]
    assert left == []


def test_a_leftover_is_neither_imported_nor_called(tmp_path):
    made = tmp_path / "made"
    path = tmp_path / "v1.ckpt"
    torch.save({"state_dict": weights(), "hook": Runs(os.mkdir, str(made))}, path)
    # The same pickle with the call renamed to something of the framework's.
    renamed = tmp_path / "renamed.ckpt"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(renamed, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith("data.pkl"):
                assert b"cposix\nmkdir\n" in content
                content = content.replace(b"cposix\nmkdir\n", b"clightning.none\nmkdir\n")
            new.writestr(name, content)
    assert same(read_tensors(renamed), weights())
    assert not made.exists()


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("call", [os.mkdir, eval])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path, call, legacy):
    made = tmp_path / "made"
    argument = str(made) if call is os.mkdir else f"__import__('os').mkdir({str(made)!r})"
    path = tmp_path / "model.ckpt"
    content = {"state_dict": weights(), "hook": Runs(call, argument)}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match=r"(mkdir|eval).*besides tensors.*\.safetensors"):
        read_tensors(path)
    assert not made.exists()
    torch.load(path, weights_only=False)
    assert made.exists(), "the file does run code where it is unpickled"


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_file_that_ends_early_is_damaged(tmp_path, suffix, share):
    path = tmp_path / f"model{suffix}"
    big = {"a": torch.randn(1000)}
    torch.save(big, path) if suffix == ".ckpt" else save_file(big, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(CheckpointError, match="download it again"):
        read_tensors(path)


def test_other_files_are_told(tmp_path):
    with pytest.raises(CheckpointError, match="not a file"):
        read_tensors(tmp_path / "none.ckpt")
    (tmp_path / "a.onnx").write_bytes(b"")
    with pytest.raises(CheckpointError, match="kind that is not read"):
        read_tensors(tmp_path / "a.onnx")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match="no tensors"):
        read_tensors(tmp_path / "list.pt")
