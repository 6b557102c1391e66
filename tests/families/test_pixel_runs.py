"""Runs of the pixel models: trained, opened from their folders, their bits a dimension named."""

from dataclasses import replace

import pytest
import torch

from t2ibench.cli.compose import compose_spec
from t2ibench.core.noise import SeededNoise
from t2ibench.engine.assemble import folder_of_part
from t2ibench.engine.context import Context
from t2ibench.engine.judges import test_protocol as protocol_of
from t2ibench.engine.likelihood import likelihood_scores
from t2ibench.engine.load import open_folder
from t2ibench.engine.parts.palette import weights_in
from t2ibench.engine.train import train

SMALL = [
    "debug=smoke",
    "budget.amount=8",
    "data.resolution=8",
    "data.source.num_train=24",
    "data.source.num_val=8",
    "data.source.num_test=8",
    "trainer.progress=false",
]
MODELS = {
    "autoregressive/image_gpt": ("palette_512", "codes of "),
    "autoregressive/pixel_cnn": ("none", "pixels|exact|"),
}


@pytest.mark.parametrize("model", MODELS)
def test_a_trained_run_is_opened_as_it_was_left(model, shared_cache, tmp_path):
    stage, of = MODELS[model]
    words = [*SMALL, f"model={model}", f"paths.cache={shared_cache}", f"paths.runs={tmp_path}"]
    colours = ["parts.first_stage.colours=30"] if stage != "none" else []
    trained = train(Context(compose_spec([*words, *colours, "model.training.batch_size=4"])))
    opened = open_folder(trained.run.path)
    noise = SeededNoise([3, 4])
    prompts = ["a red ring", "a blue star"]
    first = trained.module.generate(prompts, noise)
    assert torch.equal(opened.module.generate(prompts, SeededNoise([3, 4])), first)
    if colours:
        measured = trained.module.first_stage
        even = type(measured.autoencoder)(colours=30).palette
        assert not torch.equal(measured.autoencoder.palette, even)
        assert opened.module.first_stage.fingerprint == measured.fingerprint
        assert weights_in(folder_of_part(trained.run, "first_stage")).exists()
        assert trained.run.fingerprint("first_stage") == measured.fingerprint
        assert trained.clock.parts_flops > 0
        of += measured.fingerprint[:8]
    protocol = replace(protocol_of(opened.spec.protocol), num_images=8)
    (score,) = likelihood_scores(opened, protocol).values()
    assert score.key.startswith(f"bits_per_dim[{of}") and score.value > 0
