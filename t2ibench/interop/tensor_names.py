"""Names of tensors in published files and in ours: pure functions of a layout, no networks.

Ours are the names that diffusers writes. A published file names modules by their position in a
flat list (``input_blocks.7.1``), which the layout (levels, blocks a level, levels with attention)
turns into level and block. A mapping is a list of ``Part``: modules, not tensors, so it does not
grow with what is inside them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from t2ibench.core.errors import CheckpointError


@dataclass(frozen=True)
class Part:
    """One module (or a subtree whose inner names agree) under its two names.

    Attributes:
        published: its name in the published file.
        ours: its name in our state dict.
        pointwise: 1x1 convolution in the file, its weight (O, I, 1, 1); linear layer here, (O, I).
    """

    published: str
    ours: str
    pointwise: bool = False


@dataclass(frozen=True)
class UNetLevels:
    """Layout of a UNet, as far as its tensors' names depend on it.

    Attributes:
        levels: how many sizes of map.
        blocks: residual blocks a level on the way down; one more on the way up.
        attention_levels: levels whose blocks are followed by attention, 0 the largest map.
    """

    levels: int
    blocks: int
    attention_levels: frozenset[int]


RESIDUAL = (
    ("in_layers.0", "norm1"),
    ("in_layers.2", "conv1"),
    ("emb_layers.1", "time_emb_proj"),
    ("out_layers.0", "norm2"),
    ("out_layers.3", "conv2"),
    ("skip_connection", "conv_shortcut"),
)
"""Names inside a UNet's residual block; the released code counts activation and dropout too."""

EARLY = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""A first stage's attention in folders of diffusers before 0.17."""

POSITION_MAP = "position_ids"
"""A buffer 0, 1, 2, … that old CLIP files carry."""


def unet_parts(layout: UNetLevels) -> list[Part]:
    """A text-conditional UNet as CompVis names it (after ``model.diffusion_model.``).

    Source: Rombach et al. 2022 (LDM), released code: modules are numbered through the levels.
    Differs: none.
    """
    parts = [
        Part("time_embed.0", "time_embedding.linear_1"),
        Part("time_embed.2", "time_embedding.linear_2"),
        Part("input_blocks.0.0", "conv_in"),
        Part("out.0", "conv_norm_out"),
        Part("out.2", "conv_out"),
    ]
    last = layout.levels - 1
    number = 1
    for level in range(layout.levels):
        for block in range(layout.blocks):
            parts += residual(f"input_blocks.{number}.0", f"down_blocks.{level}.resnets.{block}")
            if level in layout.attention_levels:
                ours = f"down_blocks.{level}.attentions.{block}"
                parts.append(Part(f"input_blocks.{number}.1", ours))
            number += 1
        if level < last:
            ours = f"down_blocks.{level}.downsamplers.0.conv"
            parts.append(Part(f"input_blocks.{number}.0.op", ours))
            number += 1
    parts += residual("middle_block.0", "mid_block.resnets.0")
    parts.append(Part("middle_block.1", "mid_block.attentions.0"))
    parts += residual("middle_block.2", "mid_block.resnets.1")
    number = 0
    for place, level in enumerate(reversed(range(layout.levels))):
        attends = level in layout.attention_levels
        for block in range(layout.blocks + 1):
            published = f"output_blocks.{number}"
            parts += residual(f"{published}.0", f"up_blocks.{place}.resnets.{block}")
            if attends:
                parts.append(Part(f"{published}.1", f"up_blocks.{place}.attentions.{block}"))
            number += 1
        if level > 0:
            ours = f"up_blocks.{place}.upsamplers.0.conv"
            parts.append(Part(f"{published}.{1 + attends}.conv", ours))
    return parts


def residual(published: str, ours: str) -> list[Part]:
    """The layers of a UNet's residual block."""
    return [Part(f"{published}.{a}", f"{ours}.{b}") for a, b in RESIDUAL]


@dataclass(frozen=True)
class FirstStageLevels:
    """Layout of a first stage, as far as its tensors' names depend on it.

    Attributes:
        levels: how many sizes of map.
        blocks: residual blocks a level of the encoder; the decoder has one more.
        attention_levels: levels whose blocks are followed by attention, 0 the largest map.
    """

    levels: int
    blocks: int
    attention_levels: frozenset[int] = frozenset()


def first_stage_parts(layout: FirstStageLevels) -> list[Part]:
    """A first stage as taming-transformers and CompVis name it (after ``first_stage_model.``).

    Source: Esser et al. 2021 (VQGAN) and Rombach et al. 2022 (LDM), released code; their decoder
        counts levels from the largest map, ours from the first that runs.
    Differs: none.
    """
    parts = [Part(name, name) for name in ("quant_conv", "post_quant_conv", "quantize")]
    last = layout.levels - 1
    for half in ("encoder", "decoder"):
        parts += [
            Part(f"{half}.conv_in", f"{half}.conv_in"),
            Part(f"{half}.norm_out", f"{half}.conv_norm_out"),
            Part(f"{half}.conv_out", f"{half}.conv_out"),
            *convolutional(f"{half}.mid.block_1", f"{half}.mid_block.resnets.0"),
            *pointwise_attention(f"{half}.mid.attn_1", f"{half}.mid_block.attentions.0"),
            *convolutional(f"{half}.mid.block_2", f"{half}.mid_block.resnets.1"),
        ]
        way, sampler, more = (
            ("down", "downsample", 0) if half == "encoder" else ("up", "upsample", 1)
        )
        for level in range(layout.levels):
            published = f"{half}.{way}.{level}"
            ours = f"{half}.{way}_blocks.{level if half == 'encoder' else last - level}"
            for block in range(layout.blocks + more):
                parts += convolutional(f"{published}.block.{block}", f"{ours}.resnets.{block}")
                if level in layout.attention_levels:
                    parts += pointwise_attention(
                        f"{published}.attn.{block}", f"{ours}.attentions.{block}"
                    )
            parts.append(Part(f"{published}.{sampler}.conv", f"{ours}.{sampler}rs.0.conv"))
    return parts


def convolutional(published: str, ours: str) -> list[Part]:
    """The layers of a first stage's residual block."""
    same = ("norm1", "conv1", "norm2", "conv2")
    return [
        *(Part(f"{published}.{name}", f"{ours}.{name}") for name in same),
        Part(f"{published}.nin_shortcut", f"{ours}.conv_shortcut"),
    ]


def pointwise_attention(published: str, ours: str) -> list[Part]:
    """The layers of a first stage's attention: 1x1 convolutions there, linear layers here."""
    return [
        Part(f"{published}.norm", f"{ours}.group_norm"),
        *(Part(f"{published}.{name}", f"{ours}.to_{name}", pointwise=True) for name in "qkv"),
        Part(f"{published}.proj_out", f"{ours}.to_out.0", pointwise=True),
    ]


def modern_name(name: str) -> str:
    """Attention layers that diffusers called otherwise before 0.17, under their later names.

    Example:
        >>> modern_name("encoder.mid_block.attentions.0.query.weight")
        'encoder.mid_block.attentions.0.to_q.weight'
    """
    module, _, kind = name.rpartition(".")
    parent, _, layer = module.rpartition(".")
    return f"{parent}.{EARLY[layer]}.{kind}" if layer in EARLY else name


def ldm_bert_parts(depth: int) -> list[Part]:
    """LDM's text transformer (after ``cond_stage_model.transformer.``): 2i attention, 2i + 1 MLP.

    Source: Rombach et al. 2022 (LDM), released code (x-transformers).
    Differs: none.
    """
    parts = [
        Part("token_emb", "model.embed_tokens"),
        Part("pos_emb.emb", "model.embed_positions"),
        Part("norm", "model.layer_norm"),
    ]
    for layer in range(depth):
        attention, mlp = f"attn_layers.layers.{2 * layer}", f"attn_layers.layers.{2 * layer + 1}"
        ours = f"model.layers.{layer}"
        parts += [
            Part(f"{attention}.0", f"{ours}.self_attn_layer_norm"),
            *(Part(f"{attention}.1.to_{n}", f"{ours}.self_attn.{n}_proj") for n in "qkv"),
            Part(f"{attention}.1.to_out", f"{ours}.self_attn.out_proj"),
            Part(f"{mlp}.0", f"{ours}.final_layer_norm"),
            Part(f"{mlp}.1.net.0.0", f"{ours}.fc1"),
            Part(f"{mlp}.1.net.2", f"{ours}.fc2"),
        ]
    return parts


def clip_parts(names: Iterable[str]) -> list[Part]:
    """CLIP's text tower: checkpoints have ``text_model.`` before every name, ours has not.

    Args:
        names: of the tensors in the file.
    """
    tops = dict.fromkeys(n.removeprefix("text_model.").split(".")[0] for n in names)
    return [Part(f"text_model.{top}", top) for top in tops]


def split_known(
    tensors: Mapping[str, Tensor], parts: Sequence[Part]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A published state dict under our names, and what has no place in the layout."""
    known = {part.published: part for part in parts}
    renamed, unknown = {}, {}
    for name, tensor in tensors.items():
        part = find_owner(name, known)
        if part is None:
            unknown[name] = tensor
            continue
        if part.pointwise and tensor.ndim > 2:
            tensor = tensor.flatten(1)
        renamed[part.ours + name[len(part.published) :]] = tensor
    return renamed, unknown


def to_published(tensors: Mapping[str, Tensor], parts: Sequence[Part]) -> dict[str, Tensor]:
    """A state dict of ours under its published names: the inverse of ``split_known``.

    Raises:
        CheckpointError: a name belongs to no part.
    """
    known = {part.ours: part for part in parts}
    renamed = {}
    for name, tensor in tensors.items():
        part = find_owner(name, known)
        if part is None:
            raise CheckpointError(f"{name} has no place in this layout.")
        if part.pointwise and tensor.ndim == 2:
            tensor = tensor[:, :, None, None]
        renamed[part.published + name[len(part.ours) :]] = tensor
    return renamed


def find_owner(name: str, known: Mapping[str, Part]) -> Part | None:
    """The part that a tensor belongs to, the longest that its name begins with, or None."""
    module = name
    while module := module.rpartition(".")[0]:
        if module in known:
            return known[module]
    return None


def without_dots(name: str) -> str:
    """Name of the running average of ``model.NAME`` in CompVis files (after ``model_ema.``).

    Source: Rombach et al. 2022 (LDM), released code: buffers cannot have dots in their names.
    Differs: none.

    Example:
        >>> without_dots("diffusion_model.out.2.bias")
        'diffusion_modelout2bias'
    """
    return name.replace(".", "")


def averaged(
    tensors: Mapping[str, Tensor], averages: Mapping[str, Tensor], prefix: str
) -> dict[str, Tensor]:
    """Each tensor's running average in its place.

    Args:
        tensors: of the network, named without ``prefix``.
        averages: what the file has under ``model_ema.``.
        prefix: of the network inside the trained model, ``diffusion_model.``.

    Raises:
        CheckpointError: two names are the same without dots, or an average is missing.
    """
    names = {name: without_dots(prefix + name) for name in tensors}
    if len(set(names.values())) < len(names):
        raise CheckpointError("two tensors have the same name once their dots are removed.")
    missing = [name for name, dotless in names.items() if dotless not in averages]
    if missing:
        raise CheckpointError(
            f"the running average (model_ema.) lacks {len(missing)} of {len(names)} tensors, the "
            f"first is {missing[0]}; import the training weights with use_ema=false."
        )
    return {name: averages[dotless] for name, dotless in names.items()}
