"""A text encoder's folder, in the transformers format, that a run carries with it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from t2ibench.core.errors import CheckpointError
from t2ibench.core.files import atomic_path, write_json
from t2ibench.core.tensors import write_safetensors
from t2ibench.interop.published import TextTower
from t2ibench.text.ldm_bert import LDMBert

CLIP_VOCABULARY = 49408
"""Byte pairs of CLIP's released tokeniser, its two special tokens included."""

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
)


def text_width(text: TextTower) -> int:
    """D of the features."""
    return int(text.config["hidden_size" if text.kind == "clip" else "width"])


def text_network(text: TextTower) -> nn.Module:
    """The network without its weights, whose names and shapes the published tensors must have.

    Raises:
        MissingWeightsError: the tokeniser of LDM's transformer has no ``vocab.txt``.
    """
    if text.kind == "ldm_bert":
        return LDMBert(path=text.tokenizer, **text.config)
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(CLIPTextConfig.from_dict(dict(text.config)))


def write_text_folder(text: TextTower, folder: Path) -> None:
    """CLIP's weights, configuration and tokeniser; of LDM's transformer the word pieces alone.

    Args:
        text: of the published model.
        folder: made if it is not there.

    Raises:
        CheckpointError: there is no tokeniser.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if text.kind == "clip":
        write_json(folder / "config.json", text.config)
        save_tensors(text.weights.tensors, folder / "model.safetensors")
    if text.tokenizer is not None:
        copy_tokenizer(text.tokenizer, folder)
    else:
        clip_tokenizer(text.config).save_pretrained(folder)


def copy_tokenizer(source: Path, folder: Path) -> None:
    """The files of a tokeniser, from its folder or the one file that it is.

    Raises:
        CheckpointError: there are none.
    """
    files = [source] if source.is_file() else [source / name for name in TOKENIZER_FILES]
    found = [file for file in files if file.is_file()]
    if not found:
        raise CheckpointError(
            f"tokenizer={source} has no tokeniser (none of {', '.join(TOKENIZER_FILES)}); give its "
            "folder, or BERT's vocab.txt for LDM's text transformer."
        )
    for file in found:
        # Word pieces given as a file may have any name; encoders look for vocab.txt.
        pieces = source.is_file() and file.suffix == ".txt"
        shutil.copyfile(file, folder / ("vocab.txt" if pieces else file.name))


def clip_tokenizer(config: Mapping[str, Any]) -> Any:
    """CLIP's own tokeniser, from the vocabulary that open_clip carries.

    Args:
        config: of the text tower, which must have CLIP's vocabulary.

    Raises:
        CheckpointError: the text tower has another vocabulary.
    """
    from open_clip.tokenizer import SimpleTokenizer
    from transformers import CLIPTokenizer

    if config["vocab_size"] != CLIP_VOCABULARY:
        raise CheckpointError(
            f"the text encoder has {config['vocab_size']} tokens, CLIP has {CLIP_VOCABULARY}; give "
            "its own tokeniser with tokenizer=FOLDER."
        )
    published = SimpleTokenizer()
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    return CLIPTokenizer(
        vocab={names.get(token, token): number for token, number in published.encoder.items()},
        merges=list(published.bpe_ranks),
        model_max_length=config["max_position_embeddings"],
    )


def save_tensors(tensors: Mapping[str, Tensor], path: Path, own: bool = False) -> None:
    """Writes float32 safetensors, atomically; integers stay what they are.

    Tensors that are float32 already are not copied, so a mapped file is not held twice.

    Args:
        tensors: the tensors by name.
        path: the file.
        own: True for a run of ours, which gets a checksum; else the file is what others expect.
    """
    ready = {
        name: (tensor.detach().float() if tensor.is_floating_point() else tensor).cpu().contiguous()
        for name, tensor in tensors.items()
    }
    with atomic_path(path) as aside:
        if own:
            write_safetensors(ready, aside)
        else:
            save_file(ready, aside, metadata={"format": "pt"})
