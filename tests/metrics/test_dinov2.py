"""DINOv2 from a folder in the real format, against transformers' own processor and model."""

from pathlib import Path

import pytest
import torch

from t2ibench.core.errors import CheckpointError, MissingWeightsError
from t2ibench.metrics.extractors.dinov2 import Dinov2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from transformers import Dinov2Config, Dinov2Model

    path = tmp_path_factory.mktemp("weights") / "dinov2-tiny"
    config = Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, image_size=518, patch_size=14
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        Dinov2Model(config).save_pretrained(path)
    return path


def pictures(count: int, side: int) -> torch.Tensor:
    stream = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, 3, side, side), generator=stream).byte()


@pytest.mark.parametrize("side", [64, 224])
def test_features_equal_the_processor_and_model_of_transformers(folder, side):
    from transformers import BitImageProcessorPil, Dinov2Model

    processor = BitImageProcessorPil(
        size={"height": 224, "width": 224},
        do_center_crop=False,
        resample=3,
        image_mean=(0.485, 0.456, 0.406),
        image_std=(0.229, 0.224, 0.225),
    )
    pixels = pictures(2, side)
    inputs = processor(list(pixels.permute(0, 2, 3, 1).numpy()), return_tensors="pt")
    with torch.inference_mode():
        hidden = Dinov2Model.from_pretrained(folder).eval()(**inputs).last_hidden_state
    ours = Dinov2(folder)
    assert ours.key == "dinov2-tiny@32|pil-bicubic-224"
    assert torch.allclose(ours.features(pixels), hidden[:, 0], atol=2e-5)


def test_a_feature_depends_on_its_image_alone(folder):
    ours, pixels = Dinov2(folder, name="small"), pictures(3, 48)
    assert torch.allclose(ours.features(pixels)[1:2], ours.features(pixels[1:2]), atol=1e-5)


@pytest.mark.parametrize("evaluator", ["extractor/dinov2", "conventions"])
def test_an_evaluator_of_the_configuration_has_it(folder, monkeypatch, evaluator):
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    monkeypatch.setenv("T2IBENCH_DINOV2", str(folder))
    group = Path(__file__).parents[2] / "conf" / "evaluator"
    node = OmegaConf.load(group / f"{evaluator}.yaml")
    node = node.get("extractors", node).dinov2
    assert instantiate(node).key == "dinov2-vit-l14@32|pil-bicubic-224"


def test_absent_and_foreign_folders_are_named(folder, tmp_path, monkeypatch):
    monkeypatch.delenv("T2IBENCH_DINOV2", raising=False)
    monkeypatch.setenv("T2IBENCH_WEIGHTS", str(tmp_path))
    with pytest.raises(MissingWeightsError, match="t2ibench fetch dinov2"):
        Dinov2()
    from transformers import ViTConfig

    ViTConfig(hidden_size=8).save_pretrained(tmp_path / "vit")
    with pytest.raises(CheckpointError, match="holds a vit, not a dinov2"):
        Dinov2(tmp_path / "vit")
