"""CLIP towers on tiny random weights: transformers as reference, an open_clip twin."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from t2ibench.core.errors import CheckpointError, ConfigError, MissingWeightsError
from t2ibench.metrics.alignment import clip_score
from t2ibench.metrics.extractors.clip import OpenClip, TransformersClip, resize_and_crop

WIDTH, LAYERS, HEADS, VOCABULARY = 64, 2, 1, 49408
CAPTIONS = ["a red circle", "two blue squares on grey", "the cat " * 90]


def pictures(count: int, side: int = 40) -> torch.Tensor:
    stream = torch.Generator().manual_seed(5)
    return torch.randint(0, 256, (count, 3, side, side), generator=stream).byte()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A tiny CLIP in transformers' format with CLIP's own byte-pair vocabulary."""
    from open_clip.tokenizer import SimpleTokenizer
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    path = tmp_path_factory.mktemp("clip") / "tiny"
    tower = {
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "hidden_act": "gelu",
    }
    ends = {"bos_token_id": 49406, "eos_token_id": 49407}
    config = CLIPConfig(
        text_config=tower | ends | {"vocab_size": VOCABULARY},
        vision_config=tower | {"image_size": 32, "patch_size": 8},
        projection_dim=32,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CLIPModel(config).eval()
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(path)
    published = SimpleTokenizer()
    merges = list(published.bpe_ranks)
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {names.get(token, token): i for token, i in published.encoder.items()}
    CLIPTokenizer(vocab=vocabulary, merges=merges).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def clip(folder) -> TransformersClip:
    return TransformersClip(folder)


@pytest.fixture(scope="module")
def twin(folder, clip, tmp_path_factory) -> OpenClip:
    """open_clip's architecture with the same weights, mapped by name."""
    import open_clip

    place = tmp_path_factory.mktemp("open_clip")
    tower = {"width": WIDTH, "layers": LAYERS}
    config = {
        "embed_dim": 32,
        "vision_cfg": tower | {"image_size": 32, "patch_size": 8, "head_width": WIDTH},
        "text_cfg": tower | {"context_length": 77, "vocab_size": VOCABULARY, "heads": HEADS},
    }
    (place / "tiny-twin.json").write_text(json.dumps(config))
    open_clip.add_model_config(place / "tiny-twin.json")
    source = clip.model.state_dict()
    state = {
        "visual.class_embedding": source["vision_model.embeddings.class_embedding"],
        "visual.positional_embedding": source["vision_model.embeddings.position_embedding.weight"],
        "visual.conv1.weight": source["vision_model.embeddings.patch_embedding.weight"],
        "visual.proj": source["visual_projection.weight"].T,
        "token_embedding.weight": source["text_model.embeddings.token_embedding.weight"],
        "positional_embedding": source["text_model.embeddings.position_embedding.weight"],
        "text_projection": source["text_projection.weight"].T,
        "logit_scale": source["logit_scale"],
    }
    norms = {
        "visual.ln_pre": "vision_model.pre_layrnorm",
        "visual.ln_post": "vision_model.post_layernorm",
        "ln_final": "text_model.final_layer_norm",
    }
    for side, mine in (("vision_model", "visual.transformer"), ("text_model", "transformer")):
        for i in range(LAYERS):
            theirs, ours = f"{side}.encoder.layers.{i}", f"{mine}.resblocks.{i}"
            norms |= {f"{ours}.ln_{n}": f"{theirs}.layer_norm{n}" for n in (1, 2)}
            norms |= {
                f"{ours}.mlp.c_fc": f"{theirs}.mlp.fc1",
                f"{ours}.mlp.c_proj": f"{theirs}.mlp.fc2",
                f"{ours}.attn.out_proj": f"{theirs}.self_attn.out_proj",
            }
            for kind in ("weight", "bias"):
                joined = [source[f"{theirs}.self_attn.{p}_proj.{kind}"] for p in "qkv"]
                state[f"{ours}.attn.in_proj_{kind}"] = torch.cat(joined)
    for ours, theirs in norms.items():
        for kind in ("weight", "bias"):
            state[f"{ours}.{kind}"] = source[f"{theirs}.{kind}"]
    torch.save({k: v.contiguous() for k, v in state.items()}, place / "twin.pt")
    return OpenClip("tiny-twin", place / "twin.pt", "random")


def test_scores_equal_transformers_own_similarity(clip, folder):
    from transformers import CLIPImageProcessorPil

    size = {"shortest_edge": 32}
    crop = {"height": 32, "width": 32}
    processor = CLIPImageProcessorPil(size=size, crop_size=crop)
    pixels = pictures(3)
    images = [Image.fromarray(p.permute(1, 2, 0).numpy()) for p in pixels]
    tokens = clip.tokenizer(
        CAPTIONS, padding=True, truncation=True, max_length=77, return_tensors="pt"
    )
    with torch.inference_mode():
        output = clip.model(
            **tokens, pixel_values=processor(images=images, return_tensors="pt").pixel_values
        )
    cosines = (output.logits_per_image / clip.model.logit_scale.exp()).diagonal()
    found = clip_score(clip.image_features(pixels), clip.text_features(CAPTIONS))
    assert torch.allclose(found, 100 * cosines.clamp(min=0), atol=1e-3)
    assert found.unique().numel() > 1


def test_open_clip_twin_gives_the_same_features(clip, twin):
    pixels = pictures(3)
    for ours, theirs in (
        (clip.image_features(pixels), twin.image_features(pixels)),
        (clip.text_features(CAPTIONS), twin.text_features(CAPTIONS)),
    ):
        assert ours.std() > 0.01
        assert torch.allclose(ours, theirs, atol=1e-4 * float(ours.abs().max()))


def test_a_long_caption_keeps_its_end_token(clip, twin):
    ids = clip.tokenizer([CAPTIONS[2]], truncation=True, max_length=77)["input_ids"][0]
    assert len(ids) == 77 and ids[-1] == 49407
    assert int(twin.tokenizer([CAPTIONS[2]])[0, -1]) == 49407


def test_features_do_not_depend_on_the_batch(clip):
    pixels = pictures(5)
    assert torch.allclose(
        clip.image_features(pixels)[3:4], clip.image_features(pixels[3:4]), atol=1e-5
    )
    whole = clip.text_features(CAPTIONS)
    assert torch.allclose(whole[:1], clip.text_features(CAPTIONS[:1]), atol=1e-5)


def test_oblong_images_are_cropped_at_the_centre():
    pixels = torch.zeros(1, 3, 32, 64, dtype=torch.uint8)
    pixels[..., 16:48] = 200
    assert resize_and_crop(pixels, 16)[..., 1:-1].float().mean() > 195
    square = pictures(1, 48)
    picture = Image.fromarray(square[0].permute(1, 2, 0).numpy())
    theirs = np.asarray(picture.resize((24, 24), Image.Resampling.BICUBIC))
    assert np.array_equal(resize_and_crop(square, 24)[0].permute(1, 2, 0).numpy(), theirs)


def test_keys_name_the_model_and_absent_files_are_named(clip, twin, monkeypatch, tmp_path):
    assert clip.key == "clip-tiny@32|pil-bicubic-32"
    assert twin.key == "clip-tiny-twin/random@32|pil-bicubic-32"
    assert len(clip.fingerprint) == 12
    monkeypatch.delenv("T2IBENCH_CLIP", raising=False)
    with pytest.raises(MissingWeightsError, match="T2IBENCH_CLIP"):
        TransformersClip()
    with pytest.raises(MissingWeightsError, match="none.pt"):
        OpenClip("ViT-B-32", tmp_path / "none.pt", "x")


def test_over_long_captions_are_known(clip, twin):
    for encoder in (clip, twin):
        assert encoder.context_length == 77
        assert encoder.caption_lengths(CAPTIONS) == [5, 7, 182]


def test_only_the_published_336_px_network_gives_cmmd(folder, tmp_path, monkeypatch):
    import dataclasses

    from t2ibench.core.hashing import hash_file
    from t2ibench.metrics.extractors import clip as clips

    named = tmp_path / "clip-vit-large-patch14-336"
    from transformers import CLIPModel

    small = CLIPModel.from_pretrained(folder)
    small.save_pretrained(named)
    for file in folder.iterdir():
        if not (named / file.name).exists():
            shutil.copy(file, named)
    config = json.loads((named / "config.json").read_text())
    config["vision_config"] |= {"image_size": 336, "patch_size": 84}
    (named / "config.json").write_text(json.dumps(config))
    state = small.state_dict()
    name = "vision_model.embeddings.patch_embedding.weight"
    state[name] = torch.randn(WIDTH, 3, 84, 84)
    (named / "model.safetensors").unlink()
    torch.save(state, named / "pytorch_model.bin")
    found = TransformersClip(named)
    assert found.name == "clip-vit-large-patch14-336" and found.size == 336
    assert found.kernel_distance_name == "cmmd-style", "a name alone makes no CMMD"
    real = clips.CLIP_L14_336
    main = dataclasses.replace(real.files[0], sha256=hash_file(named / "pytorch_model.bin"))
    changed = dataclasses.replace(real, files=(main, *real.files[1:]))
    monkeypatch.setattr(clips, "CLIP_L14_336", changed)
    assert TransformersClip(named).kernel_distance_name == "cmmd"


def test_fetched_networks_are_called_by_their_published_names(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("T2IBENCH_WEIGHTS", str(tmp_path))
    monkeypatch.delenv("T2IBENCH_CLIP", raising=False)
    shutil.copytree(folder, tmp_path / "clip")
    assert TransformersClip().name == "clip-vit-l-14/openai"
    monkeypatch.setenv("T2IBENCH_CLIP_336", str(folder))
    assert TransformersClip(published="clip_336").name == "clip-tiny"
    with pytest.raises(ConfigError, match="published=clip_99 is unknown; choose inception, clip"):
        TransformersClip(published="clip_99")


def test_files_that_hold_no_clip_are_named(folder, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    (broken / "model.safetensors").write_bytes(b"version https://git-lfs")
    with pytest.raises(CheckpointError, match=r"broken does not hold a CLIP in transformers"):
        TransformersClip(broken)
    (tmp_path / "x.pt").write_bytes(b"<html>")
    with pytest.raises(CheckpointError, match=r"x\.pt does not hold open_clip's ViT-B-32"):
        OpenClip("ViT-B-32", tmp_path / "x.pt", "x")
    with pytest.raises(ConfigError, match="architecture=ViT-Q-1 is no architecture of open_clip"):
        OpenClip("ViT-Q-1", tmp_path / "x.pt", "x")
