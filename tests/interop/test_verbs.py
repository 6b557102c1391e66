"""`t2ibench import` and `t2ibench export` as typed: pictures, round trips, sentences."""

import json
import shutil
from functools import reduce
from operator import getitem

import numpy as np
import pytest
import torch
from by_words import context_of, module_of
from interop.compvis_names import ldm_bert_name
from interop.models import PROMPTS, compvis_state, pipeline, save_compvis
from PIL import Image
from safetensors.torch import load_file, save_file

from t2ibench.cli.main import main
from t2ibench.core.edits import Inpainting
from t2ibench.core.errors import ConfigError
from t2ibench.core.files import read_json, write_json
from t2ibench.core.noise import SeededNoise
from t2ibench.engine.assemble import content_of, untrained_module
from t2ibench.engine.build import instantiate
from t2ibench.engine.components import read_component
from t2ibench.engine.identity import named_run, resolved
from t2ibench.engine.load import LoadedRun, open_run
from t2ibench.engine.parts.text import training_vocabulary
from t2ibench.interop.diffusers_model import diffusers_model
from t2ibench.interop.diffusers_writer import write_folder
from t2ibench.runs.clock import Clock
from t2ibench.runs.folder import Run
from t2ibench.training.checkpoint import save_weights

SEEDS = [5, 6]
KNOBS = {"num_steps": 5, "guidance_scale": 3.0}
LEADING = {"spacing": "uniform", "timestep_offset": 1, "last_level": "first_timestep"}
TRAILING = {"spacing": "trailing", "timestep_offset": 0, "last_level": "image"}


@pytest.fixture(scope="module")
def run(compvis_file, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "small"
    assert main(["import", str(compvis_file), f"out={out}", "data.resolution=32"]) == 0
    return out


def refused(arguments, capsys):
    """The one sentence that a refused command writes."""
    capsys.readouterr()
    assert main([str(a) for a in arguments]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"t2ibench {arguments[0]}: ") and told.count("\n") == 1
    return told


def picture(path):
    return np.asarray(Image.open(path))


def load(folder, kind="StableDiffusionPipeline"):
    import diffusers

    pipe = getattr(diffusers, kind).from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def theirs(pipe, latents, **given):
    images = pipe(
        PROMPTS,
        latents=latents,
        num_inference_steps=KNOBS["num_steps"],
        guidance_scale=KNOBS["guidance_scale"],
        output_type="pt",
        **given,
    ).images
    assert images.std() > 0.01
    return images


def ours(module, **given):
    return module.generate(PROMPTS, SeededNoise(SEEDS), KNOBS, **given) / 2 + 0.5


def start():
    return SeededNoise(SEEDS).normal(4, 8, 8)


# ---- import ----


def test_an_imported_run_samples_and_says_where_it_came_from(run, compvis_file, tmp_path):
    out = tmp_path / "pictures"
    assert main(["sample", str(run), "a red ring", f"out={out}", "knobs.num_steps=2"]) == 0
    (found,) = out.glob("*.png")
    assert picture(found).shape == (32, 32, 3) and picture(found).std() > 1
    facts = read_json(run / "manifest.json")["imported"]
    assert facts["file"] == compvis_file.name and len(facts["sha256"]) == 64
    module = module_of(Run.at(run))
    torch.testing.assert_close(module.first_stage.latent_scale, torch.full((4,), 0.18215))
    assert Run.at(run).state == "trained"


def test_every_format_gives_the_same_run(run, pipe, diffusers_folder, tmp_path):
    half = {n: t.half() if t.is_floating_point() else t for n, t in compvis_state(pipe).items()}
    torch.save({"state_dict": half}, tmp_path / "half.ckpt")
    sources = {"ckpt": save_compvis(pipe, tmp_path / "m.ckpt"), "folder": diffusers_folder}
    sources["half"] = tmp_path / "half.ckpt"
    wanted = load_file(Run.at(run).weights)
    for name, source in sources.items():
        out = tmp_path / name
        assert main(["import", str(source), f"out={out}", "data.resolution=32"]) == 0
        found = load_file(Run.at(out).weights)
        assert found.keys() == wanted.keys()
        tolerance = 1e-2 if name == "half" else 0
        for key, tensor in wanted.items():
            assert found[key].dtype == torch.float32
            torch.testing.assert_close(found[key], tensor, atol=tolerance, rtol=tolerance)
    configuration = (tmp_path / "folder" / "config.yaml").read_text()
    assert "resolution: 32" in configuration
    identities = {Run.at(tmp_path / name).identity for name in sources}
    assert len(identities) == 3


def test_a_folder_tells_its_resolution(diffusers_folder, tmp_path):
    assert main(["import", str(diffusers_folder), f"out={tmp_path / 'run'}"]) == 0
    assert module_of(Run.at(tmp_path / "run")).resolution == 32


@pytest.mark.parametrize("text_gone", [False, True])
def test_keys_that_do_not_fit_are_named_before_anything_is_written(
    pipe, tmp_path, capsys, text_gone
):
    state = compvis_state(pipe)
    gone = [n for n in state if n.startswith("first_stage_model.encoder.down.1.block.0.conv1")]
    if text_gone:
        gone += [n for n in state if "encoder.layers.1.mlp.fc2" in n]
    for name in gone:
        del state[name]
    state["model.diffusion_model.hint.weight"] = torch.zeros(1)
    save_file(state, tmp_path / "odd.safetensors")
    out = tmp_path / "run"
    told = refused(["import", tmp_path / "odd.safetensors", f"out={out}"], capsys)
    assert f"{len(gone)} missing" in told and "1 surplus" in told
    assert "model.diffusion_model.hint: 1, model.diffusion_model.hint.weight" in told
    assert all(name in told for name in gone)
    assert [p.name for p in tmp_path.iterdir()] == ["odd.safetensors"]


class Call:
    def __reduce__(self):
        return print, ("run",)


def test_pickles_that_could_run_code_are_not_read(pipe, tmp_path, capsys):
    torch.save({"state_dict": compvis_state(pipe), "call": Call()}, tmp_path / "m.ckpt")
    told = refused(["import", tmp_path / "m.ckpt", f"out={tmp_path / 'run'}"], capsys)
    assert "could run code" in told and ".safetensors" in told


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "needs one file or folder"),
        (["a.ckpt"], "needs the run folder to write"),
        (["a.ckpt", "out=."], "exists already"),
        (["a.ckpt", "out=new", "use_ema=perhaps"], "must be true or false"),
        (["a.ckpt", "out=new", "tokenizer=/nowhere"], "tokenizer=/nowhere is not there"),
        (["/nowhere.ckpt", "out=new"], "is not a file"),
    ],
)
def test_mistakes_of_import(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert words in refused(["import", *arguments], capsys)
    assert not list(tmp_path.iterdir())


def test_an_unknown_key_is_refused(compvis_file, tmp_path, capsys):
    out = tmp_path / "run"
    told = refused(["import", compvis_file, f"out={out}", "data.colour=red"], capsys)
    assert "data.colour" in told and not out.exists()


def test_ldm_text_to_image_runs(pipe, tmp_path):
    from t2ibench.text.ldm_bert import SPECIAL_TOKENS, Transformer

    pieces = [*SPECIAL_TOKENS, "a", "red", "ring", "blue"]
    (tmp_path / "bert.txt").write_text("\n".join(pieces) + "\n")
    torch.manual_seed(1)
    layout = {"max_length": 20, "width": 64, "depth": 2, "heads": 8, "head_width": 64}
    text = Transformer(vocabulary_size=len(pieces), **layout)
    prefix = "cond_stage_model.transformer."
    state = {n: t for n, t in compvis_state(pipe).items() if not n.startswith(prefix)}
    state |= {prefix + ldm_bert_name(f"model.{n}"): t for n, t in text.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "ldm.ckpt")
    out = tmp_path / "run"
    words = ["import", str(tmp_path / "ldm.ckpt"), f"out={out}", "data.resolution=32"]
    assert main([*words, f"tokenizer={tmp_path / 'bert.txt'}"]) == 0
    (tmp_path / "bert.txt").unlink()
    module = module_of(Run.at(out))
    features = module.encode_captions(["a red ring"])
    ids = torch.tensor([[2, 5, 6, 7, 3, *[0] * 15]])
    with torch.no_grad():
        torch.testing.assert_close(features.tokens, text(ids))
    assert (
        main(["sample", str(out), "a red ring", f"out={tmp_path / 'p'}", "knobs.num_steps=2"]) == 0
    )


# ---- export ----


def test_diffusers_draws_the_runs_images(run, tmp_path):
    assert main(["export", str(run), f"out={tmp_path / 'folder'}", "format=diffusers"]) == 0
    images = theirs(load(tmp_path / "folder"), start())
    torch.testing.assert_close(ours(module_of(Run.at(run))), images, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("solver", "changes"),
    [
        ("ddim", TRAILING | {"prediction_type": "v"}),
        ("euler", LEADING | {"schedule": "linear", "betas": [0.0015, 0.0195]}),
        ("plms", LEADING),
        ("dpm_solver_pp", TRAILING),
        ("dpm_solver_pp", TRAILING | {"last_level": "first_timestep"}),
    ],
)
def test_diffusers_takes_the_steps_of_every_solver_that_it_has(run, tmp_path, solver, changes):
    loaded = open_run(Run.at(run))
    module, config = loaded.module, loaded.spec.config()
    config["model"]["module"]["process"].update({"solver": solver} | changes)
    module.process = instantiate(read_component(config["model"]["module"]["process"], "process"))
    write_folder(diffusers_model(module, config), tmp_path / "folder")
    images = theirs(load(tmp_path / "folder"), start())
    torch.testing.assert_close(ours(module), images, atol=1e-4, rtol=0)


def test_import_export_import_keeps_every_tensor(run, tmp_path):
    folder, back = tmp_path / "folder", tmp_path / "back"
    assert main(["export", str(run), f"out={folder}", "format=diffusers"]) == 0
    assert main(["import", str(folder), f"out={back}"]) == 0
    for part in ("checkpoints", "parts/text_encoder"):
        wanted = load_file(run / part / "model.safetensors")
        found = load_file(back / part / "model.safetensors")
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    files = [f / "parts" / "text_encoder" / "tokenizer.json" for f in (run, back)]
    first, second = (json.loads(file.read_text())["model"] for file in files)
    assert first == second
    card = (folder / "README.md").read_text()
    assert "`model.safetensors` (CompVis)" in card and "num_inference_steps=50" in card
    total = sum(t.numel() for f in folder.rglob("*.safetensors") for t in load_file(f).values())
    assert f"| all | {total:,} |" in card


def test_measured_statistics_by_channel_are_exported(run, tmp_path):
    loaded = open_run(Run.at(run))
    module = loaded.module
    torch.manual_seed(2)
    stage = module.first_stage
    stage.latent_mean.copy_(torch.randn(4))
    stage.latent_std.mul_(torch.rand(4) + 0.5)
    write_folder(diffusers_model(module, loaded.spec.config()), tmp_path / "folder")
    images = theirs(load(tmp_path / "folder"), start())
    torch.testing.assert_close(ours(module), images, atol=1e-4, rtol=0)


def test_inpainting_unets_go_both_ways(tmp_path, monkeypatch):
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    source = save_compvis(pipeline(in_channels=9), tmp_path / "m.safetensors")
    out, folder = tmp_path / "run", tmp_path / "folder"
    assert main(["import", str(source), f"out={out}", "data.resolution=32"]) == 0
    assert main(["export", str(out), f"out={folder}", "format=diffusers"]) == 0
    module = module_of(Run.at(out))
    assert module.inpaints
    # Theirs draws the masked image's latents from the posterior, ours are its mean.
    monkeypatch.setattr(
        DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mean
    )
    image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(2, 1, 32, 32, dtype=torch.bool)
    mask[:, :, 8:24, 4:16] = True
    images = theirs(
        load(folder, "StableDiffusionInpaintPipeline"),
        start(),
        image=image,
        mask_image=mask.float(),
        height=32,
        width=32,
    )
    found = ours(module, edit=Inpainting(image * 2 - 1, mask))
    painted = mask.expand_as(found)
    torch.testing.assert_close(found[painted], images[painted], atol=1e-4, rtol=0)
    torch.testing.assert_close(found[~painted], image[~painted], atol=1e-6, rtol=0)


def test_safetensors_are_the_run_without_its_history(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "last.ckpt").write_bytes(b"history")
    out = tmp_path / "weights"
    assert main(["export", str(tmp_path / "run"), f"out={out}", "format=safetensors"]) == 0
    shutil.rmtree(tmp_path / "run")
    assert not (out / "checkpoints" / "last.ckpt").exists()
    assert torch.equal(ours(module_of(Run.at(out))), ours(module_of(Run.at(run))))
    assert "t2ibench sample FOLDER" in (out / "README.md").read_text()


@pytest.fixture(scope="module")
def gan(tmp_path_factory):
    """A run of another family, as training would have left it."""
    root = tmp_path_factory.mktemp("gan")
    context = context_of(
        ["model=gan/fast_painter", f"paths.runs={root}", f"paths.cache={root}/cache"]
        + ["data.source.num_train=16", "data.source.num_val=8", "data.source.num_test=8"]
    )
    found, module = named_run(context), untrained_module(context)
    found.begin(resolved(context).config())
    write_json(found.path / "vocabulary.json", training_vocabulary(context.source.split("train")))
    save_weights(module, found.weights)
    modules = {"text_encoder": module.text_encoder}
    found.write_manifest(content=content_of(context.spec, modules))
    found.set_status("trained", clock=Clock(images_seen=16).state_dict())
    return LoadedRun(found, context, module, Clock())


def test_any_family_is_exported_as_safetensors(gan, tmp_path):
    out = tmp_path / "weights"
    assert main(["export", str(gan.run.path), f"out={out}", "format=safetensors"]) == 0
    again = module_of(Run.at(out)).state_dict()
    assert all(torch.equal(again[n], t) for n, t in gan.module.state_dict().items())
    assert "| images seen | 16 |" in (out / "README.md").read_text()


def test_another_family_is_no_diffusers_pipeline(gan, tmp_path, capsys):
    told = refused(["export", gan.run.path, f"out={tmp_path / 'x'}", "format=diffusers"], capsys)
    assert "gan/fast_painter has no place" in told and "format=safetensors" in told
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("model.module.process.solver", "heun", "solver=heun with spacing=uniform"),
        ("model.module.process.spacing", "karras", "solver=ddim with spacing=karras"),
        ("model.module.process.schedule", "cosine", "schedule=cosine"),
        ("model.module.process.clip_sample", True, "clip_sample=True"),
        ("model.module.network.scale_shift", True, "scale_shift=True"),
        ("model.module.network.heads", 0, "heads=0"),
        ("text.encoder.padding", "longest", "padding=longest"),
    ],
)
def test_what_diffusers_does_not_have_is_told(run, key, value, words):
    loaded = open_run(Run.at(run))
    config = loaded.spec.config()
    *folders, last = key.split(".")
    reduce(getitem, folders, config)[last] = value
    with pytest.raises(ConfigError, match=f"{words} has no place"):
        diffusers_model(loaded.module, config)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "needs one run folder"),
        (["nowhere", "out=new", "format=onnx"], "format=onnx is unknown"),
        (["nowhere", "out=.", "format=diffusers"], "does not exist yet"),
        (["nowhere", "out=new", "format=diffusers"], "not a run folder"),
    ],
)
def test_mistakes_of_export(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert words in refused(["export", *arguments], capsys)
    assert not list(tmp_path.iterdir())
