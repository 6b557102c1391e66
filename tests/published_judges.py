"""Small random judges in the published formats, and the words that name them."""

import json
from pathlib import Path

import torch
from metrics.random_inception import write_random_weights
from text.tiny import OPEN_CLIP, save_clip, save_open_clip

ARCHITECTURE = "tiny-judge"


def write_clip(folder: Path, seed: int) -> Path:
    """A CLIP in transformers' format, of 12 tokens."""
    state = save_open_clip(folder.with_name(f"{folder.name}-source"), seed)
    torch.manual_seed(seed)
    save_clip(folder, state)
    return folder


def write_open_clip(root: Path, seed: int) -> Path:
    """A checkpoint of open_clip, of 12 tokens, whose architecture open_clip then knows."""
    import open_clip

    save_open_clip(root / "open_clip", seed)
    (root / f"{ARCHITECTURE}.json").write_text(json.dumps(OPEN_CLIP))
    open_clip.add_model_config(root / f"{ARCHITECTURE}.json")
    return root / "open_clip" / "open_clip_model.safetensors"


def write_dinov2(folder: Path) -> Path:
    """A DINOv2 in transformers' format."""
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=518, patch_size=56
    )
    Dinov2Model(config).save_pretrained(folder)
    return folder


def write_judges(root: Path) -> dict[str, Path]:
    """All of them by what ``evaluator=published`` calls them."""
    return {
        "inception": write_random_weights(root / "inception.pth"),
        "dinov2": write_dinov2(root / "dinov2-tiny"),
        "openai_clip_vit_l14_336": write_clip(root / "clip-tiny", 1),
        "open_clip_vit_b32": write_open_clip(root, 2),
    }


def words_of(judges: dict[str, Path]) -> list[str]:
    """``evaluator=published`` with these files."""
    clip, other = (
        "evaluator.dual_encoders.openai_clip_vit_l14_336",
        ("evaluator.dual_encoders.open_clip_vit_b32"),
    )
    return [
        "evaluator=published",
        f"evaluator.extractors.inception.weights={judges['inception']}",
        f"evaluator.extractors.dinov2.folder={judges['dinov2']}",
        "evaluator.extractors.dinov2.name=dinov2-tiny",
        f"{clip}.folder={judges['openai_clip_vit_l14_336']}",
        f"{other}.weights={judges['open_clip_vit_b32']}",
        f"{other}.architecture={ARCHITECTURE}",
        f"{other}.tag=random",
    ]
