"""Both published formats give the same tensors under our names, or one sentence."""

import json
import shutil

import pytest
import torch
from interop.compvis_names import ldm_bert_name
from interop.models import compvis_state, pipeline, save_compvis
from safetensors.torch import load_file, save_file

from t2ibench.core.errors import CheckpointError
from t2ibench.core.hashing import hash_file
from t2ibench.interop.compvis import read_schedule, read_single_file
from t2ibench.interop.diffusers_folder import read_folder
from t2ibench.interop.published import Schedule
from t2ibench.interop.tensor_names import without_dots

STABLE_DIFFUSION = Schedule("scaled_linear", 0.00085, 0.012, 1000, "epsilon")


def equal(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def own(pipe):
    return {
        "unet": pipe.unet.state_dict(),
        "first_stage": pipe.vae.state_dict(),
        "text": pipe.text_encoder.state_dict(),
    }


def networks(published):
    return {
        "unet": published.unet.tensors,
        "first_stage": published.first_stage.tensors,
        "text": published.text.weights.tensors,
    }


@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
def test_a_single_file_gives_the_modules_tensors(pipe, tmp_path, suffix):
    path = save_compvis(pipe, tmp_path / f"model.{suffix}")
    published = read_single_file(path, None, use_ema=True)
    for name, tensors in networks(published).items():
        equal(dict(tensors), own(pipe)[name])
    published.check(own(pipe))
    assert published.schedule == STABLE_DIFFUSION
    assert published.latent_scale == 0.18215
    assert published.facts["sha256"] == hash_file(path)
    assert published.unet_layout.channels == (32, 64)
    assert published.unet_layout.attention_levels == (0,)


def test_a_folder_gives_the_same_tensors_and_layout(pipe, compvis_file, diffusers_folder):
    folder = read_folder(diffusers_folder, None)
    file = read_single_file(compvis_file, None, use_ema=True)
    for name, tensors in networks(folder).items():
        equal(dict(tensors), own(pipe)[name])
    folder.check(own(pipe))
    assert folder.unet_layout == file.unet_layout
    assert folder.first_stage_layout == file.first_stage_layout
    assert folder.schedule == file.schedule and folder.latent_scale == file.latent_scale
    for key in ("hidden_size", "num_attention_heads", "hidden_act", "eos_token_id"):
        assert folder.text.config[key] == file.text.config[key], key


def test_folders_of_older_libraries_give_the_same_tensors(pipe, diffusers_folder, tmp_path):
    old = tmp_path / "old"
    shutil.copytree(diffusers_folder, old)
    text = load_file(old / "text_encoder" / "model.safetensors")
    text = {f"text_model.{n.removeprefix('text_model.')}": t for n, t in text.items()}
    text["text_model.embeddings.position_ids"] = torch.arange(20)[None]
    save_file(text, old / "text_encoder" / "model.safetensors")
    weights = old / "vae" / "diffusion_pytorch_model.safetensors"
    early = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    stage = {}
    for name, tensor in load_file(weights).items():
        for new, was in early.items():
            name = name.replace(f"attentions.0.{new}.", f"attentions.0.{was}.")
        stage[name] = tensor
    assert any(".query." in name for name in stage)
    torch.save(stage, old / "vae" / "diffusion_pytorch_model.bin")
    weights.unlink()
    published = read_folder(old, None)
    for name, tensors in networks(published).items():
        equal(dict(tensors), own(pipe)[name])
    published.check(own(pipe))


def test_shards_are_joined(pipe, diffusers_folder, tmp_path):
    pipe.unet.save_pretrained(tmp_path / "unet", max_shard_size="300KB")
    assert len(list((tmp_path / "unet").glob("*.safetensors"))) > 1
    for name in ("vae", "text_encoder", "tokenizer", "scheduler"):
        shutil.copytree(diffusers_folder / name, tmp_path / name)
    equal(dict(read_folder(tmp_path, None).unet.tensors), pipe.unet.state_dict())


def test_the_running_average_is_taken_where_there_is_one(pipe, tmp_path):
    state = compvis_state(pipe)
    unet = {n: t for n, t in state.items() if n.startswith("model.diffusion_model.")}
    for name, tensor in unet.items():
        state[f"model_ema.{without_dots(name.removeprefix('model.'))}"] = tensor + 1
    state["model_ema.decay"] = torch.tensor(0.9999)
    state["model_ema.num_updates"] = torch.tensor(7)
    save_file(state, tmp_path / "full.safetensors")
    average = read_single_file(tmp_path / "full.safetensors", None, use_ema=True)
    trained = read_single_file(tmp_path / "full.safetensors", None, use_ema=False)
    for published, offset in ((average, 1), (trained, 0)):
        published.check(own(pipe))
        equal(
            dict(published.unet.tensors),
            {n: t + offset for n, t in pipe.unet.state_dict().items()},
        )
    assert average.facts["weights"] == "running average"


def test_missing_surplus_and_misshapen_tensors_are_all_told(pipe, tmp_path):
    state = compvis_state(pipe)
    for name in list(state):
        if name.startswith("model.diffusion_model.output_blocks.1."):
            del state[name]
    gone = "first_stage_model.decoder.up.0.block.1.norm2.weight"
    del state[gone]
    state["model.diffusion_model.control.weight"] = torch.zeros(1)
    state["lora_up"] = torch.zeros(2)
    state["model.diffusion_model.out.0.bias"] = torch.zeros(5)
    save_file(state, tmp_path / "odd.safetensors")
    published = read_single_file(tmp_path / "odd.safetensors", None, use_ema=True)
    with pytest.raises(CheckpointError) as caught:
        published.check(own(pipe))
    text = str(caught.value)
    missing = sum(n.startswith("up_blocks.0.resnets.1") for n in pipe.unet.state_dict()) + 1
    assert f"{missing} missing" in text and gone in text
    assert "model.diffusion_model.output_blocks" in text
    assert "2 surplus" in text and "lora_up" in text and "control.weight" in text
    assert "1 of another shape" in text and "out.0.bias (5,) for (32,)" in text


@pytest.mark.parametrize(
    ("prefix", "network"),
    [
        ("model.diffusion_model.", "UNet"),
        ("first_stage_model.", "first stage"),
        ("cond_stage_model.", "text encoder"),
    ],
)
def test_a_file_without_a_network_says_which(pipe, tmp_path, prefix, network):
    state = {n: t for n, t in compvis_state(pipe).items() if not n.startswith(prefix)}
    save_file(state, tmp_path / "part.safetensors")
    with pytest.raises(CheckpointError, match=f"has no {network}"):
        read_single_file(tmp_path / "part.safetensors", None, use_ema=True)


def test_other_versions_are_refused_by_name(pipe, tmp_path):
    path = tmp_path / "v2.safetensors"
    state = compvis_state(pipe)
    second = {n.replace("transformer.text_model", "model.transformer"): t for n, t in state.items()}
    save_file(second, path)
    with pytest.raises(CheckpointError, match="Stable Diffusion v2"):
        read_single_file(path, None, use_ema=True)
    name = "model.diffusion_model.middle_block.1.proj_in.weight"
    save_file(state | {name: state[name][:, :, 0, 0].contiguous()}, path)
    with pytest.raises(CheckpointError, match="linear projections"):
        read_single_file(path, None, use_ema=True)
    save_file({"conditioner.embedders.0.a": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="Stable Diffusion XL"):
        read_single_file(path, None, use_ema=True)


def test_betas_tell_the_schedule():
    linear = torch.linspace(0.0015, 0.0195, 1000)
    assert read_schedule(linear, "f") == Schedule("linear", 0.0015, 0.0195, 1000, "epsilon")
    rooted = torch.linspace(0.0015**0.5, 0.0195**0.5, 1000).square()
    assert read_schedule(rooted, "f").name == "scaled_linear"
    with pytest.raises(CheckpointError, match="neither linear"):
        read_schedule(torch.linspace(0.1, 0.5, 1000).pow(3), "f")


@pytest.mark.parametrize(
    ("file", "key", "value", "message"),
    [
        ("unet/config.json", "use_linear_projection", True, "use_linear_projection=True"),
        ("unet/config.json", "attention_head_dim", [5, 10], "levels are alike"),
        ("unet/config.json", "norm_eps", 1e-6, "norm_eps"),
        ("vae/config.json", "use_quant_conv", False, "use_quant_conv=False"),
        ("vae/config.json", "down_block_types", ["A", "B"], "down_block_types"),
        ("text_encoder/config.json", "model_type", "t5", "model_type=t5"),
        ("scheduler/scheduler_config.json", "beta_schedule", "sigmoid", "sigmoid"),
        ("scheduler/scheduler_config.json", "prediction_type", "flow", "prediction_type=flow"),
    ],
)
def test_a_folder_of_another_layout_says_what_is_other(
    diffusers_folder, tmp_path, file, key, value, message
):
    other = tmp_path / "other"
    shutil.copytree(diffusers_folder, other)
    config = json.loads((other / file).read_text())
    (other / file).write_text(json.dumps(config | {key: value}))
    with pytest.raises(CheckpointError, match=message):
        read_folder(other, None)


def test_a_folder_with_a_part_missing_or_broken(diffusers_folder, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(diffusers_folder, other)
    (other / "vae" / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"vae/config\.json is missing or not JSON"):
        read_folder(other, None)
    shutil.copy(diffusers_folder / "vae" / "config.json", other / "vae" / "config.json")
    shutil.move(other / "scheduler", tmp_path / "scheduler")
    with pytest.raises(CheckpointError, match="has no scheduler/"):
        read_folder(other, None)
    shutil.move(tmp_path / "scheduler", other / "scheduler")
    (other / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="unet has no weights"):
        read_folder(other, None)


def test_an_inpainting_unet_has_nine_channels_in(tmp_path):
    pipe = pipeline(in_channels=9)
    path = save_compvis(pipe, tmp_path / "inpainting.safetensors")
    published = read_single_file(path, None, use_ema=True)
    assert published.unet_layout.in_channels == 9
    published.check(own(pipe))


def ldm_bert_state():
    from t2ibench.text.ldm_bert import Transformer

    layout = {"vocabulary_size": 30, "max_length": 20, "width": 64, "depth": 2}
    torch.manual_seed(0)
    transformer = Transformer(**layout, heads=8, head_width=4)
    return {f"model.{name}": tensor for name, tensor in transformer.state_dict().items()}


def test_ldms_text_transformer_is_read_from_a_single_file(pipe, tmp_path):
    text = ldm_bert_state()
    prefix = "cond_stage_model.transformer."
    state = {n: t for n, t in compvis_state(pipe).items() if not n.startswith(prefix)}
    state |= {prefix + ldm_bert_name(name): tensor for name, tensor in text.items()}
    state[f"{prefix}to_logits.weight"] = torch.zeros(30, 64)
    state[f"{prefix}to_logits.bias"] = torch.zeros(30)
    path = tmp_path / "model.ckpt"
    torch.save({"state_dict": state}, path)
    with pytest.raises(CheckpointError, match=r"tokenizer=vocab\.txt"):
        read_single_file(path, None, use_ema=True)
    published = read_single_file(path, tmp_path / "vocab.txt", use_ema=True)
    assert published.text.kind == "ldm_bert"
    layout = {"width": 64, "max_length": 20, "depth": 2, "heads": 8, "head_width": 4}
    assert published.text.config == layout
    equal(dict(published.text.weights.tensors), text)
    published.check(own(pipe) | {"text": text})


def test_ldms_text_transformer_is_read_from_a_folder(pipe, diffusers_folder, tmp_path):
    folder = tmp_path / "ldm"
    shutil.copytree(diffusers_folder, folder)
    (folder / "vae").rename(folder / "vqvae")
    shutil.rmtree(folder / "text_encoder")
    (folder / "bert").mkdir()
    config = {
        "model_type": "ldmbert",
        "d_model": 64,
        "max_position_embeddings": 20,
        "encoder_layers": 2,
        "encoder_attention_heads": 8,
        "head_dim": 4,
    }
    (folder / "bert" / "config.json").write_text(json.dumps(config))
    text = ldm_bert_state()
    logits = {"to_logits.weight": torch.zeros(30, 64), "to_logits.bias": torch.zeros(30)}
    torch.save(text | logits, folder / "bert" / "pytorch_model.bin")
    published = read_folder(folder, None)
    assert published.text.config["head_width"] == 4
    published.check(own(pipe) | {"text": text})
