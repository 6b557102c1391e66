"""Caption towers that are causal, run no further than the longest caption of a batch.

In a causal tower the feature of a caption is that of its end token, which looks at nothing behind
it: the padding is work without effect. Captions of like length go through it together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor


def encode_to_end_token(clip: Any, ids: Int[Tensor, "B L"]) -> Float[Tensor, "B D"]:
    """Text features of an open_clip model, computed up to the last end token of the batch.

    ``encode_text(ids)`` to rounding. Towers that are not causal, or that do not end in an end
    token of the highest id, see the whole length.

    Args:
        clip: open_clip's ``CLIP`` or ``CustomTextCLIP``.
        ids: token ids on the CPU, padded to the context length; their lengths are read there.

    Source: Radford et al. (2021), "Learning transferable visual models", section 2.4.
    Differs: none.
    """
    device = next(clip.parameters()).device
    tower = getattr(clip, "text", clip)
    mask = getattr(tower, "attn_mask", None)
    pool = getattr(tower, "text_pool_type", getattr(tower, "pool_type", ""))
    names = ("token_embedding", "positional_embedding", "transformer", "ln_final")
    known = all(hasattr(tower, name) for name in names)
    if mask is None or pool != "argmax" or not known or getattr(tower, "cls_emb", None) is not None:
        return clip.encode_text(ids.to(device))
    ends = ids.argmax(1)
    length = int(ends.max()) + 1
    ids, ends = ids[:, :length].to(device), ends.to(device)
    dtype = tower.transformer.get_cast_dtype()
    x = tower.token_embedding(ids).to(dtype)
    x = x + tower.positional_embedding[:length].to(dtype)
    x = tower.ln_final(tower.transformer(x, attn_mask=mask[:length, :length]))
    x = x[torch.arange(len(x), device=x.device), ends]
    projection = tower.text_projection
    if projection is None:
        return x
    return projection(x) if isinstance(projection, torch.nn.Linear) else x @ projection


@torch.inference_mode()
def text_features(
    encode: Callable[[list[str]], Tensor], captions: Sequence[str], batch_size: int, width: int
) -> Float[Tensor, "B D"]:
    """Features of B captions on the CPU, those of like length in one batch.

    Args:
        encode: embeds one batch of captions.
        captions: B captions.
        batch_size: captions in a batch.
        width: D.

    Example:
        >>> sizes = text_features(lambda batch: torch.tensor([[len(c)] for c in batch]),
        ...                       ["abc", "a", "ab"], 2, 1)
        >>> sizes.flatten().tolist()
        [3.0, 1.0, 2.0]
    """
    order = sorted(range(len(captions)), key=lambda row: len(captions[row]))
    found = torch.empty(len(captions), width)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        found[rows] = encode([captions[row] for row in rows]).float().cpu()
    return found
