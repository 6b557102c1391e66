"""OpenAI's ADM networks under our names: their attention packs q, k and v into one weight."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

from torch import Tensor

from t2ibench.core.errors import CheckpointError, ConfigError
from t2ibench.interop.tensor_names import Part, UNetLevels, to_ours, unet_parts

QKVOrder = Literal["legacy", "new"]
"""``legacy``: head by head, each its q, k, v. ``new``: q of all heads, then k, then v."""


def adm_parts(layout: UNetLevels) -> list[Part]:
    """A UNet of openai/guided-diffusion, after ``split_attention``.

    Source: Dhariwal and Nichol 2021 (ADM), released code.
    Differs: none.
    """
    parts = []
    for part in unet_parts(layout):
        if ".attentions." not in part.ours:
            parts.append(part)
            continue
        parts.append(Part(f"{part.published}.norm", f"{part.ours}.group_norm"))
        parts += [Part(f"{part.published}.{n}", f"{part.ours}.to_{n}") for n in "qkv"]
        parts.append(Part(f"{part.published}.proj_out", f"{part.ours}.to_out.0"))
    return parts


def import_adm(
    tensors: Mapping[str, Tensor],
    layout: UNetLevels,
    *,
    order: str,
    heads: int | None = None,
    head_width: int | None = None,
) -> dict[str, Tensor]:
    """A guided-diffusion state dict under our names.

    Args:
        tensors: of the file.
        layout: levels, blocks, attention.
        order: ``QKVOrder``: how q, k and v are packed; no tensor tells it.
        heads: of every attention, or None where the heads' width is fixed.
        head_width: channels of every head, or None where their number is fixed.

    Raises:
        ConfigError: the order is unknown, or not exactly one of heads and head_width is given.
        CheckpointError: a name has no place in the layout, or heads do not divide a width.
    """
    return to_ours(
        split_attention(tensors, order=order, heads=heads, head_width=head_width),
        adm_parts(layout),
    )


def split_attention(
    tensors: Mapping[str, Tensor],
    *,
    order: str,
    heads: int | None = None,
    head_width: int | None = None,
) -> dict[str, Tensor]:
    """Every ``qkv`` as ``q``, ``k`` and ``v``, and 1-D convolutions as linear layers.

    Raises:
        ConfigError: the order is unknown, or not exactly one of heads and head_width is given.
        CheckpointError: heads do not divide a width.

    Source: Dhariwal and Nichol 2021 (ADM), released code: the 64 px model has the new order, the
        others the legacy one, and both have the same shapes.
    Differs: none.
    """
    if order not in get_args(QKVOrder):
        raise ConfigError(f"qkv order {order} is unknown; choose {', '.join(get_args(QKVOrder))}.")
    if (heads is None) == (head_width is None):
        raise ConfigError("give either heads or head_width of the attention, not both.")
    split: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        module, _, kind = name.rpartition(".")
        if module.endswith(".proj_out"):
            split[name] = tensor.flatten(1) if kind == "weight" else tensor
            continue
        if not module.endswith(".qkv"):
            split[name] = tensor
            continue
        packed = tensor.flatten(1) if kind == "weight" else tensor
        width = len(packed) // 3
        count = heads if heads is not None else width // (head_width or 1)
        if count == 0 or width % count:
            raise CheckpointError(
                f"{name}: {count} heads do not divide {width} channels; give this model's heads."
            )
        for letter, piece in zip("qkv", unpack(packed, count, order), strict=True):
            split[f"{module[: -len('qkv')]}{letter}.{kind}"] = piece
    return split


def unpack(packed: Tensor, heads: int, order: str) -> tuple[Tensor, ...]:
    """Rows (3 D, ...) as q, k and v, each (D, ...), heads one after the other."""
    if order == "new":
        return packed.chunk(3)
    by_head = packed.unflatten(0, (heads, 3, -1))
    return tuple(by_head[:, i].flatten(0, 1) for i in range(3))
