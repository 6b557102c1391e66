"""The published first stages as anybody trains them: as `t2ibench train` does."""

import pytest
import torch

from t2ibench.autoencoders.metrics import psnr
from t2ibench.cli.compose import compose_spec
from t2ibench.core.errors import ConfigError, MissingWeightsError
from t2ibench.core.files import read_json
from t2ibench.engine.build import instantiate
from t2ibench.engine.context import Context
from t2ibench.engine.parts.first_stage import image_batches
from t2ibench.engine.train import train

COUNTS = {
    "kl_f4": 55_312_063,
    "kl_f8": 83_653_863,
    "kl_f16": 69_610_963,
    "kl_f32": 103_880_131,
    "vq_f8": 67_717_295,
    "vq_f16": 69_593_371,
    "vq_f4_ldm": 55_322_782,
    "vqgan_f16": 72_141_699,
    "vqgan_f16 with 16384 codes": 76_073_859,
    # Strided layers 2 (12,544 + 1,048,832) less 253 (a bias of 3 colours), 4 blocks, the codebook.
    "vq_vae": 2 * (12_544 + 1_048_832) - 253 + 4 * 655_872 + 512 * 256,
}
NARROW = [
    "parts.first_stage.module.autoencoder.channels=[8,8,16]",
    "parts.first_stage.module.autoencoder.blocks=1",
    "parts.first_stage.module.autoencoder.groups=4",
    "parts.first_stage.module.discriminator.channels=4",
    "parts.first_stage.module.discriminator_start_images=96",
    "parts.first_stage.module.optimizer.lr=5e-3",
    "parts.first_stage.training.batch_size=16",
]
SMALL = [
    "model=diffusion/fast_unet",
    "autoencoder=kl_f4",
    "budget=images",
    "budget.amount=16",
    "budget.first_stage_images=320",
    "data.source.num_train=128",
    "data.source.num_val=32",
    "data.source.num_test=32",
    "trainer=cpu",
    "trainer.progress=false",
]


def test_kl_f4_trains_at_a_reduced_width(tmp_path, monkeypatch):
    monkeypatch.setenv("T2IBENCH_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("T2IBENCH_CACHE", str(tmp_path / "cache"))
    loaded = train(Context.of(compose_spec([*SMALL, *NARROW])))
    (stage,) = (tmp_path / "runs").glob("first_stage-kl_f4-*")
    status = read_json(stage / "status.json")
    assert status["state"] == "finished"
    rows = (stage / "metrics.csv").read_text().splitlines()
    names, last = rows[0].split(","), rows[-1].split(",")
    assert float(last[names.index("adversarial_weight")]) > 0
    held_out = torch.cat(list(image_batches(loaded.source.split("val"), 32)))
    one_colour = held_out.mean((0, 2, 3), keepdim=True).expand_as(held_out)
    assert status["reconstruction"]["psnr"] > psnr(held_out, one_colour) + 1
    assert 0 < status["reconstruction"]["ssim"] < 1


@pytest.mark.parametrize("name", COUNTS)
def test_files_hold_the_published_layouts(name):
    expected = COUNTS[name]
    name, _, more = name.partition(" with ")
    codes = ["parts.first_stage.module.autoencoder.codebook_size=16384"] if more else []
    part = compose_spec([f"autoencoder={name}", *codes]).parts["first_stage"]
    with torch.device("meta"):
        module = instantiate(part.module, resolution=256)
    assert sum(p.numel() for p in module.autoencoder.parameters()) == expected
    assert part.spatial_factor == module.autoencoder.spatial_factor
    assert part.kind == module.autoencoder.kind
    module.configure_optimizers()


def test_lpips_without_weights_is_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setenv("T2IBENCH_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("T2IBENCH_WEIGHTS", str(tmp_path))
    lpips = "parts.first_stage.module.perceptual=lpips"
    with pytest.raises(MissingWeightsError, match="perceptual=lpips needs torchvision's vgg16"):
        train(Context.of(compose_spec([*SMALL, *NARROW, lpips])))
    assert not list(tmp_path.glob("runs/*/status.json"))
    with pytest.raises(ConfigError, match="perceptual=vgg"):
        compose_spec([*SMALL, "parts.first_stage.module.perceptual=vgg"])


def test_a_key_that_the_file_has_not_is_refused():
    with pytest.raises(ConfigError, match="parts.first_stage.module.colour is not a config"):
        compose_spec(["parts.first_stage.module.colour=red"])
    with pytest.raises(ConfigError, match="module.colour is no argument of AutoencoderModule"):
        compose_spec(["+parts.first_stage.module.colour=red"])
    with pytest.raises(ConfigError, match="parts.first_stage.colour is not a config"):
        compose_spec(["+parts.first_stage.colour=red"])
