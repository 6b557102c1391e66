"""CLIP's text tower, frozen, from the transformers or the open_clip format.

Both give the same features for the same weights. CLIP's text tower is causal, so the tokens
after the end token change nothing before it, and no padding mask is needed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from t2ibench.core.errors import CheckpointError, ConfigError, MissingWeightsError, first_line
from t2ibench.text.frozen import (
    Dtype,
    FrozenTextEncoder,
    HubTextEncoder,
    Padding,
    find_folder,
    how_to_get,
    hub_cache,
    load_pretrained,
    load_tokenizer,
)

Tokens = Literal["last", "penultimate"]
"""Last hidden state after the final norm, or the output of the last block but one, not normed."""

Pooled = Literal["hidden", "projected"]
"""The end token's last hidden state, or the same projected to the space shared with images."""


class CLIPTextEncoder(HubTextEncoder):
    """CLIP text in the transformers format.

    Args:
        model: name on the hub.
        path: a local folder in its place, or None for the hub's cache.
        tokens: which hidden state the tokens are.
        pooled: what one caption's vector is; ``projected`` needs a projection of D outputs.
        padding: see ``Padding``.
        dtype: of the weights; features are float32.

    Raises:
        MissingWeightsError: the weights are not on this machine.
        CheckpointError: the folder is damaged or no CLIP.
        ConfigError: the projection does not have D outputs.

    Source: Radford et al. 2021, section 2.4; Rombach et al. 2022 (last hidden state, padded);
    Kang et al. 2023 (penultimate).
    Differs: padded only to the longest caption unless ``padding`` is ``max_length``.
    """

    def __init__(
        self,
        *,
        model: str,
        path: str | Path | None = None,
        tokens: Tokens = "last",
        pooled: Pooled = "hidden",
        padding: Padding = "longest",
        dtype: Dtype = "float32",
    ) -> None:
        from transformers import CLIPTextModel, CLIPTextModelWithProjection

        folder = find_folder(model, path)
        kind = CLIPTextModelWithProjection if pooled == "projected" else CLIPTextModel
        backbone = load_pretrained(kind, folder, dtype)
        config = backbone.config
        check_projection(pooled, config.hidden_size, config.projection_dim)
        super().__init__(
            backbone=backbone,
            tokenizer=load_tokenizer(folder),
            width=config.hidden_size,
            max_length=config.max_position_embeddings,
            padding=padding,
            options={"tokens": tokens, "pooled": pooled, "dtype": dtype},
        )

    def contextualise(
        self, ids: Int[Tensor, "B L"], mask: Bool[Tensor, "B L"]
    ) -> tuple[Float[Tensor, "B L D"], Float[Tensor, "B D"]]:
        """Runs the network, see ``FrozenTextEncoder``."""
        penultimate = self.options["tokens"] == "penultimate"
        out = self.backbone(input_ids=ids, output_hidden_states=penultimate)
        tokens = out.hidden_states[-2] if penultimate else out.last_hidden_state
        projected = self.options["pooled"] == "projected"
        return tokens, out.text_embeds if projected else out.pooler_output


class OpenCLIPTextTower(nn.Module):
    """The text half of an open_clip model, for any number of tokens up to its context length.

    Args:
        clip: the whole model; its image tower is let go.

    Raises:
        ConfigError: the text tower is not open_clip's own causal transformer.

    Source: Radford et al. 2021, section 2.4.
    Differs: none.
    """

    def __init__(self, clip: Any) -> None:
        super().__init__()
        text = getattr(clip, "text", clip)
        mask = getattr(text, "attn_mask", None)
        pool = getattr(text, "text_pool_type", getattr(text, "pool_type", ""))
        if mask is None or pool != "argmax" or getattr(text, "cls_emb", None) is not None:
            raise ConfigError(
                "this open_clip model has no causal text transformer that ends in an end token; "
                "choose one of the ViT-*/RN* models, or CLIPTextEncoder for its hub version."
            )
        self.token_embedding = text.token_embedding
        self.positional_embedding = text.positional_embedding
        self.transformer = text.transformer
        self.ln_final = text.ln_final
        projection = text.text_projection
        if isinstance(projection, nn.Linear):
            projection = nn.Parameter(projection.weight.T.detach().clone())
        self.text_projection = projection
        self.register_buffer("attn_mask", mask.clone(), persistent=False)

    def forward(
        self, ids: Int[Tensor, "B L"]
    ) -> tuple[Float[Tensor, "B L D"], Float[Tensor, "B L D"]]:
        """The last hidden state after the final norm, and the last but one without it."""
        length = ids.shape[1]
        mask = self.get_buffer("attn_mask")[:length, :length]
        x = self.token_embedding(ids) + self.positional_embedding[:length]
        before_last = x
        if not self.transformer.batch_first:
            x = x.transpose(0, 1)
        for block in self.transformer.resblocks:
            before_last = x
            x = block(x, attn_mask=mask.to(x.dtype))
        if not self.transformer.batch_first:
            x, before_last = x.transpose(0, 1), before_last.transpose(0, 1)
        return self.ln_final(x), before_last


class OpenCLIPTextEncoder(FrozenTextEncoder):
    """CLIP text in the open_clip format.

    Args:
        model: open_clip's name of the architecture, for example ``ViT-B-32``.
        pretrained: open_clip's tag of the weights, looked for in the hub's cache.
        path: a file of weights, or a folder with ``open_clip_config.json`` and weights.
        tokens: which hidden state the tokens are.
        pooled: what one caption's vector is; ``projected`` needs a projection of D outputs.
        padding: see ``Padding``.
        dtype: of the weights; features are float32.

    Raises:
        MissingWeightsError: the weights are not on this machine.
        CheckpointError: the weights are damaged or of another architecture.
        ConfigError: no such architecture or tag, or the projection does not have D outputs.

    Source: Radford et al. 2021, section 2.4; Cherti et al. 2023 (OpenCLIP).
    Differs: none.
    """

    def __init__(
        self,
        *,
        model: str,
        pretrained: str | None = None,
        path: str | Path | None = None,
        tokens: Tokens = "last",
        pooled: Pooled = "hidden",
        padding: Padding = "longest",
        dtype: Dtype = "float32",
    ) -> None:
        clip, self.tokenizer = load_open_clip(model, pretrained, path)
        tower = OpenCLIPTextTower(clip).to(getattr(torch, dtype))
        max_length, width = tower.positional_embedding.shape
        projection = tower.text_projection
        check_projection(pooled, width, -1 if projection is None else projection.shape[1])
        super().__init__(
            backbone=tower,
            width=width,
            max_length=max_length,
            padding=padding,
            # The activation (plain or quick GELU) has no tensor, only the name tells it.
            options={"tokens": tokens, "pooled": pooled, "dtype": dtype, "model": model},
        )

    def tokenize(self, captions: Sequence[str]) -> tuple[Int[Tensor, "B L"], Bool[Tensor, "B L"]]:
        """Tokenises captions, see ``FrozenTextEncoder``."""
        ids = self.tokenizer(list(captions), context_length=self.max_length)
        mask = torch.arange(self.max_length) <= ids.argmax(1, keepdim=True)
        if self.padding == "longest":
            longest = int(mask.sum(1).max())
            ids, mask = ids[:, :longest], mask[:, :longest]
        return ids, mask

    @property
    def special_tokens(self) -> int:
        """Start and end, see ``FrozenTextEncoder``."""
        return 2

    def token_lengths(self, captions: Sequence[str]) -> tuple[list[int], int]:
        """Token counts, see ``FrozenTextEncoder``; byte pairs know every caption."""
        return [len(self.tokenizer.encode(c)) + self.special_tokens for c in captions], 0

    def contextualise(
        self, ids: Int[Tensor, "B L"], mask: Bool[Tensor, "B L"]
    ) -> tuple[Float[Tensor, "B L D"], Float[Tensor, "B D"]]:
        """Runs the network, see ``FrozenTextEncoder``."""
        last, before_last = self.backbone(ids)
        pooled = last[torch.arange(len(ids), device=ids.device), ids.argmax(1)]
        if self.options["pooled"] == "projected":
            pooled = pooled @ self.backbone.text_projection
        return (last if self.options["tokens"] == "last" else before_last), pooled

    @property
    def tokenizer_state(self) -> str:
        """Identity of the tokeniser, see ``FrozenTextEncoder``."""
        ranks = repr(sorted(self.tokenizer.bpe_ranks.items(), key=lambda item: item[1]))
        return hashlib.sha256(ranks.encode()).hexdigest()


def check_projection(pooled: Pooled, width: int, outputs: int) -> None:
    """Refuses a projected pooled vector that is not as wide as the tokens.

    Raises:
        ConfigError: it is not.
    """
    if pooled == "projected" and outputs != width:
        raise ConfigError(
            f"text.encoder.pooled=projected gives {outputs} values and the tokens have {width}; "
            "set text.encoder.pooled=hidden."
        )


def load_open_clip(model: str, pretrained: str | None, path: str | Path | None) -> tuple[Any, Any]:
    """An open_clip model with its weights, and its tokeniser; nothing is downloaded.

    Raises:
        MissingWeightsError, CheckpointError, ConfigError: see ``OpenCLIPTextEncoder``.
    """
    import open_clip
    from open_clip.tokenizer import SimpleTokenizer
    from safetensors import SafetensorError

    source = open_clip_weights(model, pretrained, path)
    local = source.is_dir()
    if not local and model not in open_clip.list_models():
        raise ConfigError(f"text.encoder.model={model} is no open_clip architecture.")
    name = f"local-dir:{source}" if local else model
    try:
        clip = open_clip.create_model(name, pretrained=None if local else str(source))
        tokenizer = open_clip.get_tokenizer(name)
    except (OSError, RuntimeError, ValueError, KeyError, SafetensorError, UnpicklingError) as error:
        raise CheckpointError(
            f"{source} does not hold the open_clip model {model} "
            f"({first_line(error)}); give weights of that architecture in open_clip's "
            "format."
        ) from error
    if not isinstance(tokenizer, SimpleTokenizer):
        raise ConfigError(
            f"the open_clip model {model} does not use CLIP's own tokeniser; use CLIPTextEncoder."
        )
    return clip, tokenizer


def open_clip_weights(model: str, pretrained: str | None, path: str | Path | None) -> Path:
    """Path of the weights: ``path`` itself, or the hub's cache for a tag.

    Raises:
        MissingWeightsError: they are not there.
        ConfigError: neither tag nor path is given, or the tag is unknown.
    """
    if path is not None:
        found = Path(path).expanduser()
        if found.is_file() or (found / "open_clip_config.json").is_file():
            return found
        raise MissingWeightsError(
            f"the open_clip weights of {model} are not at {found} (neither a file nor a folder "
            "with open_clip_config.json); set text.path= to them."
        )
    from huggingface_hub import try_to_load_from_cache
    from open_clip import get_pretrained_cfg, list_pretrained_tags_by_model

    repository = get_pretrained_cfg(model, pretrained).get("hf_hub", "") if pretrained else ""
    repository = repository.strip("/")
    if not repository:
        tags = ", ".join(list_pretrained_tags_by_model(model)) or "none"
        raise ConfigError(
            f"text.encoder.pretrained={pretrained} is no tag of {model} on the hub; choose one "
            f"of {tags}, or set text.path= to a file."
        )
    for name in ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"):
        cached = try_to_load_from_cache(repository, name)
        if isinstance(cached, str):
            return Path(cached)
    raise MissingWeightsError(
        f"the open_clip weights {model}/{pretrained} are not in the hub's cache {hub_cache()}; "
        f"{how_to_get(repository)}."
    )
