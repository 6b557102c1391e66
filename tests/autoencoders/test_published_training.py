"""The published first stages as anybody trains them: as `t2ibench train` does."""

import pytest
import torch

from t2ibench.autoencoders.metrics import psnr
from t2ibench.cli.build import build_source, create, first_stage_plan
from t2ibench.cli.compose import compose_config
from t2ibench.cli.first_stage import image_batches
from t2ibench.cli.pipeline import train_run
from t2ibench.core.errors import ConfigError
from t2ibench.core.files import read_json

COUNTS = {
    "kl_f4": 55_312_063,
    "kl_f8": 83_653_863,
    "kl_f16": 69_610_963,
    "kl_f32": 103_880_131,
    "vq_f8": 67_717_295,
    "vq_f16": 69_593_371,
}
NARROW = [
    "first_stage.override.module.autoencoder.channels=[8,8,16]",
    "first_stage.override.module.autoencoder.blocks=1",
    "first_stage.override.module.autoencoder.groups=4",
    "first_stage.override.module.discriminator.channels=4",
    "first_stage.override.module.discriminator_start_images=96",
    "first_stage.override.module.optimizer.lr=5e-3",
    "first_stage.override.training.batch_size=16",
]
SMALL = [
    "model=diffusion/ldm",
    "model.first_stage=kl_f4",
    "budget=images",
    "budget.amount=16",
    "first_stage.images=320",
    "data.source.num_train=128",
    "data.source.num_val=32",
    "data.source.num_test=32",
    "trainer=cpu",
    "trainer.progress=false",
]


def test_kl_f4_trains_at_a_reduced_width(tmp_path, monkeypatch):
    monkeypatch.setenv("T2IBENCH_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("T2IBENCH_CACHE", str(tmp_path / "cache"))
    train_run(compose_config([*SMALL, *NARROW]))
    (stage,) = (tmp_path / "runs").glob("first_stage-kl_f4-*")
    status = read_json(stage / "status.json")
    assert status["state"] == "finished"
    rows = (stage / "metrics.csv").read_text().splitlines()
    names, last = rows[0].split(","), rows[-1].split(",")
    assert float(last[names.index("adversarial_weight")]) > 0
    held_out = torch.cat(list(image_batches(build_source(compose_config(SMALL)).split("val"), 32)))
    one_colour = held_out.mean((0, 2, 3), keepdim=True).expand_as(held_out)
    assert status["reconstruction"]["psnr"] > psnr(held_out, one_colour) + 1
    assert 0 < status["reconstruction"]["ssim"] < 1


@pytest.mark.parametrize("name", COUNTS)
def test_files_hold_the_published_layouts(name):
    plan = first_stage_plan(compose_config([f"model.first_stage={name}"]))
    with torch.device("meta"):
        module = create(plan.config["module"], resolution=256)
    assert sum(p.numel() for p in module.autoencoder.parameters()) == COUNTS[name]
    assert plan.config["spatial_factor"] == module.autoencoder.spatial_factor
    assert plan.config["kind"] == module.autoencoder.kind
    module.configure_optimizers()


def test_an_override_that_the_file_has_not_is_refused():
    cfg = compose_config(["model=diffusion/ldm", "first_stage.override.module.colour=red"])
    with pytest.raises(ConfigError, match=r"conf/autoencoder/kl_f2.yaml.*'colour'"):
        first_stage_plan(cfg)
