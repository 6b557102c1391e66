"""Published weights in and out: the same numbers as diffusers, in both directions."""

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
from interop.models import PROMPTS, SCALED_LINEAR, compvis_state, pipeline, save_compvis
from PIL import Image
from safetensors.torch import load_file

from t2ibench.cli.main import main
from t2ibench.cli.pipeline import open_run
from t2ibench.core.files import read_json
from t2ibench.core.noise import Noise
from t2ibench.runs.folder import Run

FEW = ["data.source.num_train=16", "data.source.num_val=8", "data.source.num_test=8"]
SEEDS = [5, 6]
GUIDANCE = 3.0


@pytest.fixture(scope="module")
def pipe():
    return pipeline()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("published")


@pytest.fixture(scope="module")
def sources(pipe, folder):
    """The same model in every published format, with the tokeniser that only folders have."""
    pipe.save_pretrained(folder / "diffusers")
    pipe.tokenizer.save_pretrained(folder / "tokenizer")
    return {
        "diffusers": folder / "diffusers",
        "ckpt": save_compvis(pipe, folder / "sd.ckpt"),
        "safetensors": save_compvis(pipe, folder / "sd.safetensors"),
    }


def imported(sources, kind, out, *overrides):
    given = [f"tokenizer={sources['diffusers'].parent}/tokenizer"] if kind != "diffusers" else []
    words = [str(sources[kind]), f"out={out}", *given, *FEW, "data.resolution=32", *overrides]
    assert main(["import", *words]) == 0
    return Run.at(out)


@pytest.fixture(scope="module")
def runs(sources, folder):
    return {kind: imported(sources, kind, folder / "runs" / kind) for kind in sources}


@pytest.fixture(params=["diffusers", "ckpt", "safetensors"])
def run(request, runs):
    return runs[request.param]


def theirs(pipe, scheduler, steps=5):
    """Images of diffusers' pipeline in [-1, 1], from the latents that our seeds draw."""
    before = pipe.scheduler
    pipe.scheduler = scheduler
    try:
        images = pipe(
            PROMPTS,
            latents=Noise(SEEDS).normal(4, 8, 8),
            num_inference_steps=steps,
            guidance_scale=GUIDANCE,
            height=32,
            width=32,
            output_type="pt",
        ).images
    finally:
        pipe.scheduler = before
    return 2 * images - 1


def ours(run, steps=5):
    knobs = {"num_steps": float(steps), "guidance_scale": GUIDANCE}
    return open_run(run).module.generate(PROMPTS, Noise(SEEDS), knobs)


def test_unet_first_stage_and_text_give_diffusers_numbers(pipe, run):
    module = open_run(run).module
    text = module.encode_captions(PROMPTS)
    ids = pipe.tokenizer(PROMPTS, padding="max_length", truncation=True, return_tensors="pt")
    with torch.no_grad():
        words = pipe.text_encoder(ids.input_ids)[0]
        torch.testing.assert_close(text.tokens, words, atol=1e-5, rtol=1e-5)
        x, t = torch.randn(2, 4, 8, 8), torch.tensor([7.0, 801.0])
        want = pipe.unet(x, t, words).sample
        found = module.network(x, t, module.network.prepare(text))
        torch.testing.assert_close(found, want, atol=1e-4, rtol=1e-4)
        images = torch.rand(2, 3, 32, 32) * 2 - 1
        latents = pipe.vae.encode(images).latent_dist.mean * pipe.vae.config.scaling_factor
        torch.testing.assert_close(module.first_stage.encode(images), latents, atol=1e-4, rtol=1e-4)
        decoded = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample
        torch.testing.assert_close(
            module.first_stage.decode(latents), decoded, atol=1e-4, rtol=1e-4
        )


def test_five_guided_steps_of_ddim_are_diffusers(pipe, run):
    torch.testing.assert_close(ours(run), theirs(pipe, pipe.scheduler), atol=1e-4, rtol=1e-4)


def test_five_guided_steps_of_dpm_solver_are_diffusers(pipe, sources, folder):
    changed = [
        "model.module.process.solver=dpm_solver_pp",
        "model.module.process.spacing=trailing",
        "model.module.process.timestep_offset=0",
        "model.module.process.last_level=image",
    ]
    run = imported(sources, "diffusers", folder / "runs" / "dpm", *changed)
    scheduler = DPMSolverMultistepScheduler(
        **SCALED_LINEAR, timestep_spacing="trailing", final_sigmas_type="zero"
    )
    torch.testing.assert_close(ours(run), theirs(pipe, scheduler), atol=1e-4, rtol=1e-4)


def test_all_formats_are_the_same_weights(runs):
    weights = [load_file(run.weights) for run in runs.values()]
    for other in weights[1:]:
        assert other.keys() == weights[0].keys()
        assert all(torch.equal(other[name], weights[0][name]) for name in other)


@pytest.mark.parametrize("solver", ["ddim", "dpm_solver_pp"])
def test_an_exported_folder_samples_the_same_in_diffusers(sources, folder, tmp_path, solver):
    changed = ["model.module.process.spacing=trailing", "model.module.process.timestep_offset=0"]
    changed += [f"model.module.process.solver={solver}", "model.module.process.last_level=image"]
    run = imported(sources, "diffusers", folder / "runs" / f"export-{solver}", *changed)
    out = tmp_path / "theirs"
    assert main(["export", str(run.path), f"out={out}", "format=diffusers"]) == 0
    loaded = StableDiffusionPipeline.from_pretrained(out, safety_checker=None)
    loaded.set_progress_bar_config(disable=True)
    found = theirs(loaded, loaded.scheduler)
    torch.testing.assert_close(found, ours(run), atol=1e-4, rtol=1e-4)
    card = (out / "README.md").read_text()
    assert "imported from" in card and "| network |" in card and "diffusers" in card


def test_import_export_import_keeps_every_tensor(runs, tmp_path):
    first = runs["diffusers"]
    out = tmp_path / "folder"
    assert main(["export", str(first.path), f"out={out}", "format=diffusers"]) == 0
    again = imported({"diffusers": out}, "diffusers", tmp_path / "again")
    mine, theirs = load_file(first.weights), load_file(again.weights)
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        torch.testing.assert_close(theirs[name], tensor, msg=name)


def test_safetensors_of_any_run_with_its_card(runs, tmp_path):
    out = tmp_path / "weights"
    run = runs["ckpt"]
    assert main(["export", str(run.path), f"out={out}", "format=safetensors"]) == 0
    assert load_file(out / "model.safetensors").keys() == load_file(run.weights).keys()
    assert (out / "config.yaml").exists() and (out / "text_encoder").is_dir()
    assert "sd.ckpt" in (out / "README.md").read_text()


def test_the_verb_samples_pictures(runs, tmp_path):
    words = ["sample", str(runs["diffusers"].path), "a red ring", "knobs.num_steps=2"]
    assert main([*words, f"out={tmp_path / 'made'}"]) == 0
    with Image.open(next((tmp_path / "made").glob("*.png"))) as picture:
        assert picture.size == (32, 32)


def test_the_manifest_names_the_source(runs):
    facts = read_json(runs["ckpt"].path / "manifest.json")["imported"]
    assert facts["file"] == "sd.ckpt" and len(facts["sha256"]) == 64


def test_missing_and_surplus_tensors_are_named_in_one_sentence(pipe, sources, tmp_path, capsys):
    state = compvis_state(pipe)
    gone = "model.diffusion_model.middle_block.0.in_layers.2.weight"
    del state[gone]
    state["model.diffusion_model.control.weight"] = torch.zeros(2)
    damaged = tmp_path / "damaged.ckpt"
    torch.save({"state_dict": state}, damaged)
    tokenizer = f"tokenizer={sources['diffusers'].parent}/tokenizer"
    words = [str(damaged), f"out={tmp_path / 'run'}", tokenizer, *FEW, "data.resolution=32"]
    assert main(["import", *words]) != 0
    said = capsys.readouterr().err
    assert "middle_block.0.in_layers.2.weight" in said and "control.weight" in said
    assert "Traceback" not in said and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["import"], "needs one file or folder"),
        (["import", "x.ckpt"], "needs the run folder to write"),
        (["import", "nowhere.ckpt", "out=OUT"], "nowhere.ckpt"),
        (["export", "nowhere", "out=OUT", "format=diffusers"], "not a run folder"),
        (["export", "nowhere", "out=OUT", "format=onnx"], "format=onnx is unknown"),
    ],
)
def test_mistakes_are_one_sentence(words, said, tmp_path, capsys):
    words = [word.replace("OUT", str(tmp_path / "out")) for word in words]
    assert main(words) != 0
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error and error.count("\n") <= 2
