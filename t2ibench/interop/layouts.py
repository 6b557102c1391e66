"""Layout of a published network, read from its tensors' shapes or from a config.json.

Heads leave no trace in the shapes: Stable Diffusion v1 and LDM's text-to-image model have 8
everywhere, CLIP's text towers one for 64 channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from t2ibench.core.errors import CheckpointError
from t2ibench.interop.tensor_names import FirstStageLevels, UNetLevels

Shapes = Mapping[str, tuple[int, ...]]
"""Mapping from tensor name to shape."""

STABLE_DIFFUSION_HEADS = 8
CLIP_HEAD_WIDTH = 64
OTHER_DIFFUSERS_NETWORK = (
    "only UNets of the Stable Diffusion v1 and LDM text-to-image layout are imported"
)


@dataclass(frozen=True)
class UNetLayout:
    """A text-conditional UNet of the published layout.

    Attributes:
        in_channels: 4, or 9 for inpainting (latents, masked image's latents, mask).
        out_channels: of the latents.
        channels: width of each level, from the largest map to the smallest.
        blocks: residual blocks a level on the way down.
        attention_levels: levels with transformer blocks.
        text_width: D of the text features.
        heads: of every attention.
        depth: transformer blocks an attention.
        groups: of every GroupNorm.
    """

    in_channels: int
    out_channels: int
    channels: tuple[int, ...]
    blocks: int
    attention_levels: tuple[int, ...]
    text_width: int
    heads: int
    depth: int
    groups: int

    @property
    def levels(self) -> UNetLevels:
        """The part of the layout that its tensors' names depend on."""
        return UNetLevels(len(self.channels), self.blocks, frozenset(self.attention_levels))


@dataclass(frozen=True)
class FirstStageLayout:
    """A KL-regularised first stage of the published layout.

    Attributes:
        latent_channels: C.
        channels: width of each level, from the largest map to the smallest.
        blocks: residual blocks a level of the encoder.
        attention_levels: levels whose blocks are followed by attention.
        groups: of every GroupNorm.
    """

    latent_channels: int
    channels: tuple[int, ...]
    blocks: int
    attention_levels: tuple[int, ...]
    groups: int

    @property
    def levels(self) -> FirstStageLevels:
        """The part of the layout that its tensors' names depend on."""
        return FirstStageLevels(len(self.channels), self.blocks, frozenset(self.attention_levels))


def unet_from_shapes(shapes: Shapes, source: str) -> UNetLayout:
    """The layout of a CompVis UNet (names after ``model.diffusion_model.``).

    Raises:
        CheckpointError: a tensor that the layout is read from is missing, or it is another
            layout (Stable Diffusion v2 and XL).
    """
    refuse_second_version(shapes, source)
    downs = [n for n in range(1, len(shapes)) if f"input_blocks.{n}.0.op.weight" in shapes]
    last = max((number(name, 1) for name in shapes if name.startswith("input_blocks.")), default=0)
    blocks = (downs[0] - 1) if downs else last
    starts = [1 + level * (blocks + 1) for level in range(len(downs) + 1)]
    if blocks < 1 or downs != [start + blocks for start in starts[:-1]]:
        raise CheckpointError(
            f"{source}: the blocks of its UNet (input_blocks.) are incomplete; download the file "
            "again."
        )
    key = ".transformer_blocks.0.attn2.to_k.weight"
    depths = [number(name, 3) + 1 for name in shapes if "middle_block.1.transformer_blocks" in name]
    return UNetLayout(
        in_channels=shape(shapes, "input_blocks.0.0.weight", source)[1],
        out_channels=shape(shapes, "out.2.weight", source)[0],
        channels=tuple(
            shape(shapes, f"input_blocks.{start}.0.out_layers.3.weight", source)[0]
            for start in starts
        ),
        blocks=blocks,
        attention_levels=tuple(
            level
            for level, start in enumerate(starts)
            if any(name.startswith(f"input_blocks.{start}.1.") for name in shapes)
        ),
        text_width=shape(shapes, f"middle_block.1{key}", source)[1],
        heads=STABLE_DIFFUSION_HEADS,
        depth=max(depths, default=1),
        groups=32,
    )


def unet_from_own_names(shapes: Shapes, heads: int, groups: int) -> UNetLayout:
    """The layout of a UNet of ours; heads and groups leave no trace in the shapes."""
    levels = 1 + max(number(name, 1) for name in shapes if name.startswith("down_blocks."))
    attention = "mid_block.attentions.0.transformer_blocks"
    return UNetLayout(
        in_channels=shapes["conv_in.weight"][1],
        out_channels=shapes["conv_out.weight"][0],
        channels=tuple(
            shapes[f"down_blocks.{level}.resnets.0.conv1.weight"][0] for level in range(levels)
        ),
        blocks=1 + max(number(n, 3) for n in shapes if n.startswith("down_blocks.0.resnets.")),
        attention_levels=tuple(
            level
            for level in range(levels)
            if any(name.startswith(f"down_blocks.{level}.attentions.") for name in shapes)
        ),
        text_width=shapes[f"{attention}.0.attn2.to_k.weight"][1],
        heads=heads,
        depth=1 + max(number(name, 4) for name in shapes if name.startswith(attention)),
        groups=groups,
    )


def refuse_second_version(shapes: Shapes, source: str) -> None:
    """Refuses Stable Diffusion v2 (linear layers around its transformers) and XL.

    Raises:
        CheckpointError: it is one of them.
    """
    linear = len(shapes.get("middle_block.1.proj_in.weight", (0,) * 4)) == 2
    if linear or "label_emb.0.0.weight" in shapes:
        raise CheckpointError(
            f"{source} is of Stable Diffusion v2's or XL's kind (its transformers have linear "
            "projections); only v1 and LDM text-to-image checkpoints are imported: give one of "
            "them."
        )


def first_stage_from_shapes(shapes: Shapes, source: str) -> FirstStageLayout:
    """The layout of a CompVis KL first stage (names after ``first_stage_model.``).

    Raises:
        CheckpointError: a tensor that the layout is read from is missing, or it is a VQ stage.
    """
    if "quantize.embedding.weight" in shapes:
        raise CheckpointError(
            f"{source}: its first stage has a codebook (VQ); only KL first stages are imported."
        )
    levels = {number(name, 2) for name in shapes if name.startswith("encoder.down.")}
    first = [n for n in shapes if n.startswith("encoder.down.0.block.") and ".conv1.weight" in n]
    return FirstStageLayout(
        latent_channels=shape(shapes, "post_quant_conv.weight", source)[0],
        channels=tuple(
            shape(shapes, f"encoder.down.{level}.block.0.conv2.weight", source)[0]
            for level in range(max(levels, default=0) + 1)
        ),
        blocks=len(first),
        attention_levels=tuple(
            level for level in sorted(levels) if f"encoder.down.{level}.attn.0.q.weight" in shapes
        ),
        groups=32,
    )


def clip_config_from_shapes(shapes: Shapes, source: str) -> dict[str, Any]:
    """The transformers configuration of a CLIP text tower (our names: without ``text_model.``).

    Raises:
        CheckpointError: a tensor that the layout is read from is missing.

    Source: Radford et al. 2021, section 2.5 (heads of 64 channels); released code (quick GELU).
    Differs: none.
    """
    vocabulary, width = shape(shapes, "embeddings.token_embedding.weight", source)
    layers = [number(name, 2) for name in shapes if name.startswith("encoder.layers.")]
    return {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": shape(shapes, "encoder.layers.0.mlp.fc1.weight", source)[0],
        "num_hidden_layers": max(layers, default=0) + 1,
        "num_attention_heads": max(1, width // CLIP_HEAD_WIDTH),
        "max_position_embeddings": shape(shapes, "embeddings.position_embedding.weight", source)[0],
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
        "projection_dim": width,
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
        "pad_token_id": vocabulary - 1,
    }


def unet_from_config(config: Mapping[str, Any], source: str) -> UNetLayout:
    """The layout of a diffusers ``UNet2DConditionModel``.

    Raises:
        CheckpointError: a value that the layout does not have.
    """
    check_config(config, UNET_FIXED, source, OTHER_DIFFUSERS_NETWORK)
    channels = tuple(config["block_out_channels"])
    down = config["down_block_types"]
    up = config["up_block_types"]
    attends = ["CrossAttn" in name for name in down]
    if list(reversed(attends)) != ["CrossAttn" in name for name in up]:
        raise CheckpointError(f"{source}: up_block_types={up} do not mirror down_block_types.")
    # The file's attention_head_dim is the number of heads; a list is one number a level.
    heads = config.get("num_attention_heads") or config.get("attention_head_dim", 8)
    depth = config.get("transformer_layers_per_block", 1)
    if isinstance(heads, list) or isinstance(depth, list):
        raise CheckpointError(
            f"{source}: heads={heads}, transformer_layers_per_block={depth}; "
            f"{OTHER_DIFFUSERS_NETWORK}, whose levels are alike."
        )
    return UNetLayout(
        in_channels=config["in_channels"],
        out_channels=config["out_channels"],
        channels=channels,
        blocks=config["layers_per_block"],
        attention_levels=tuple(i for i, attend in enumerate(attends) if attend),
        text_width=config["cross_attention_dim"],
        heads=heads,
        depth=depth,
        groups=config.get("norm_num_groups", 32),
    )


UNET_FIXED: dict[str, Any] = {
    "act_fn": "silu",
    "addition_embed_type": None,
    "center_input_sample": False,
    "class_embed_type": None,
    "dual_cross_attention": False,
    "downsample_padding": 1,
    "encoder_hid_dim_type": None,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "norm_eps": 1e-5,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "resnet_time_scale_shift": "default",
    "time_embedding_type": "positional",
    "use_linear_projection": False,
}
"""Values that a ``UNet2DConditionModel``'s config.json must have or leave out."""

FIRST_STAGE_FIXED: dict[str, Any] = {
    "act_fn": "silu",
    "in_channels": 3,
    "out_channels": 3,
    "mid_block_add_attention": True,
    "shift_factor": None,
    "use_quant_conv": True,
    "use_post_quant_conv": True,
}
"""Values that an ``AutoencoderKL``'s config.json must have or leave out."""


def first_stage_from_config(config: Mapping[str, Any], source: str) -> FirstStageLayout:
    """The layout of a diffusers ``AutoencoderKL``.

    Raises:
        CheckpointError: a value that the layout does not have.
    """
    why = "only KL first stages of Stable Diffusion v1's layout are imported"
    check_config(config, FIRST_STAGE_FIXED, source, why)
    down, up = config["down_block_types"], config["up_block_types"]
    kinds = [name.removesuffix("DownEncoderBlock2D") for name in down]
    mirrored = [f"{kind}UpDecoderBlock2D" for kind in reversed(kinds)]
    if not set(kinds) <= {"", "Attn"} or mirrored != list(up):
        raise CheckpointError(f"{source}: down_block_types={down}, up_block_types={up}; {why}.")
    return FirstStageLayout(
        latent_channels=config["latent_channels"],
        channels=tuple(config["block_out_channels"]),
        blocks=config["layers_per_block"],
        attention_levels=tuple(i for i, kind in enumerate(kinds) if kind),
        groups=config.get("norm_num_groups", 32),
    )


def check_config(
    config: Mapping[str, Any], fixed: Mapping[str, Any], source: str, why: str
) -> None:
    """Refuses values other than the layout's; a key that is left out has the layout's.

    Raises:
        CheckpointError: see above.
    """
    for key, value in fixed.items():
        if config.get(key, value) != value:
            raise CheckpointError(f"{source}: {key}={config[key]} is not {value}; {why}.")


def shape(shapes: Shapes, name: str, source: str) -> tuple[int, ...]:
    """One tensor's shape.

    Raises:
        CheckpointError: it is missing.
    """
    if name not in shapes:
        raise CheckpointError(
            f"{source}: {name} is missing, and the layout is read from it; download the file again."
        )
    return tuple(shapes[name])


def number(name: str, place: int) -> int:
    """The number at ``place`` among a name's words."""
    return int(name.split(".")[place])
