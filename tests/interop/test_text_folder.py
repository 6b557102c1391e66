"""The text encoder that a run carries: transformers' and ours, with CLIP's own vocabulary."""

import pytest
import torch
from interop.models import PROMPTS

from t2ibench.core.errors import CheckpointError
from t2ibench.interop.compvis import read_single_file
from t2ibench.interop.diffusers_folder import read_folder
from t2ibench.interop.published import Component, TextTower
from t2ibench.interop.text_folder import write_text_folder
from t2ibench.text.clip import CLIPTextEncoder


def encoder(folder):
    return CLIPTextEncoder(model="", path=folder, padding="max_length")


@pytest.mark.parametrize("source", ["file", "folder"])
def test_our_encoder_gives_the_pipelines_features(
    pipe, compvis_file, diffusers_folder, tmp_path, source
):
    if source == "file":
        published = read_single_file(compvis_file, None, use_ema=True)
    else:
        published = read_folder(diffusers_folder, None)
    write_text_folder(published.text, tmp_path / "text_encoder")
    ours = encoder(tmp_path / "text_encoder").encode([*PROMPTS, ""])
    with torch.no_grad():
        theirs = torch.cat([pipe.encode_prompt(p, "cpu", 1, False)[0] for p in [*PROMPTS, ""]])
    assert ours.mask.all() and ours.tokens.shape == (3, 20, 64)
    torch.testing.assert_close(ours.tokens, theirs, atol=1e-5, rtol=0)


def test_another_vocabulary_needs_its_tokeniser(tmp_path):
    text = TextTower("clip", {"vocab_size": 100}, Component.of("", {}, None), None)
    with pytest.raises(CheckpointError, match="100 tokens.*tokenizer=FOLDER"):
        write_text_folder(text, tmp_path / "one")
    text = TextTower("clip", {"vocab_size": 100}, Component.of("", {}, None), tmp_path)
    with pytest.raises(CheckpointError, match="has no tokeniser"):
        write_text_folder(text, tmp_path / "two")


def test_word_pieces_may_be_one_file(tmp_path):
    (tmp_path / "vocab.txt").write_text("[PAD]\n")
    text = TextTower("ldm_bert", {}, Component.of("", {}, None), tmp_path / "vocab.txt")
    write_text_folder(text, tmp_path / "run" / "text_encoder")
    assert [p.name for p in (tmp_path / "run" / "text_encoder").iterdir()] == ["vocab.txt"]
