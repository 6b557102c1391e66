"""Random text encoders of a few thousand weights in the published formats."""

import json
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import Unigram, WordLevel
from tokenizers.pre_tokenizers import Metaspace, Whitespace
from tokenizers.processors import TemplateProcessing

WORDS = ["a", "red", "blue", "ring", "star", "above"]
OPEN_CLIP = {
    "embed_dim": 32,
    "vision_cfg": {
        "image_size": 16,
        "layers": 1,
        "width": 32,
        "patch_size": 8,
        "head_width": 16,
    },
    "text_cfg": {
        "context_length": 12,
        "vocab_size": 49408,
        "width": 32,
        "heads": 2,
        "layers": 2,
    },
}


@cache
def byte_pairs():
    """CLIP's own vocabulary and merges; open_clip carries them."""
    from open_clip.tokenizer import SimpleTokenizer

    tokenizer = SimpleTokenizer()
    vocabulary = dict(tokenizer.encoder)
    renamed = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    return {renamed.get(k, k): v for k, v in vocabulary.items()}, list(tokenizer.bpe_ranks)


def save_open_clip(folder: Path, seed: int = 0) -> dict:
    """A folder in open_clip's format; gives its weights."""
    import open_clip

    torch.manual_seed(seed)
    model = open_clip.CLIP(**OPEN_CLIP)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    folder.mkdir(parents=True)
    config = {"model_cfg": OPEN_CLIP, "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    state = {n: t.contiguous().clone() for n, t in model.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    return state


def save_clip(folder: Path, state: dict) -> None:
    """The same weights as a whole CLIP in the transformers format, with its tokeniser."""
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    text = {
        "hidden_size": 32,
        "intermediate_size": 128,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "max_position_embeddings": 12,
        "vocab_size": 49408,
        "hidden_act": "gelu",
        "bos_token_id": 49406,
        "eos_token_id": 49407,
        "pad_token_id": 49407,
        "projection_dim": 32,
    }
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "image_size": 16,
        "patch_size": 8,
        "projection_dim": 32,
    }
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=32))
    tower = model.text_model
    with torch.no_grad():
        tower.embeddings.token_embedding.weight.copy_(state["token_embedding.weight"])
        tower.embeddings.position_embedding.weight.copy_(state["positional_embedding"])
        for i, layer in enumerate(tower.encoder.layers):
            theirs = f"transformer.resblocks.{i}."
            for kind in ("weight", "bias"):
                q, k, v = state[f"{theirs}attn.in_proj_{kind}"].chunk(3)
                for name, part in (("q_proj", q), ("k_proj", k), ("v_proj", v)):
                    getattr(getattr(layer.self_attn, name), kind).copy_(part)
                pairs = (
                    (layer.self_attn.out_proj, "attn.out_proj"),
                    (layer.layer_norm1, "ln_1"),
                    (layer.layer_norm2, "ln_2"),
                    (layer.mlp.fc1, "mlp.c_fc"),
                    (layer.mlp.fc2, "mlp.c_proj"),
                )
                for module, name in pairs:
                    getattr(module, kind).copy_(state[f"{theirs}{name}.{kind}"])
        for kind in ("weight", "bias"):
            getattr(tower.final_layer_norm, kind).copy_(state[f"ln_final.{kind}"])
        model.text_projection.weight.copy_(state["text_projection"].T)
    model.save_pretrained(folder)
    vocabulary, merges = byte_pairs()
    CLIPTokenizer(vocab=vocabulary, merges=merges).save_pretrained(folder)


def save_t5(folder: Path, seed: int = 0) -> None:
    """A T5 with both halves and a unigram tokeniser, as the hub has them."""
    from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

    torch.manual_seed(seed)
    config = T5Config(
        vocab_size=32,
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
        decoder_start_token_id=0,
    )
    T5ForConditionalGeneration(config).save_pretrained(folder)
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [("▁", -9.0)]
    pieces += [(f"▁{word}", -float(i + 1)) for i, word in enumerate(WORDS)]
    tokenizer = Tokenizer(Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer = Metaspace()
    tokenizer.post_processor = TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)


def save_bert(folder: Path, seed: int = 0, width: int = 16) -> None:
    """A BERT without its pooler and with a word tokeniser."""
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=16,
        hidden_size=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=20,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    vocabulary = {w: i for i, w in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    ).save_pretrained(folder)
