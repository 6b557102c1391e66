"""One small published model, in both formats, for all tests of the room."""

import pytest
from interop.models import pipeline, save_compvis


@pytest.fixture(scope="session")
def pipe():
    return pipeline()


@pytest.fixture(scope="session")
def compvis_file(pipe, tmp_path_factory):
    return save_compvis(pipe, tmp_path_factory.mktemp("compvis") / "model.safetensors")


@pytest.fixture(scope="session")
def diffusers_folder(pipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("diffusers") / "model"
    pipe.save_pretrained(folder)
    return folder
