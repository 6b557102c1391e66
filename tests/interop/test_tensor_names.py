"""Published names and ours: every tensor once, the inverse is the inverse, the published counts."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from interop.compvis_names import (
    first_stage_name,
    first_stage_tensor,
    ldm_bert_name,
    unet_name,
)

from t2ibench.core.errors import CheckpointError
from t2ibench.interop.layouts import (
    UNetLayout,
    clip_config_from_shapes,
    first_stage_from_shapes,
    unet_from_own_names,
    unet_from_shapes,
)
from t2ibench.interop.tensor_names import (
    FirstStageLevels,
    UNetLevels,
    averaged,
    clip_parts,
    first_stage_parts,
    ldm_bert_parts,
    modern_name,
    split_known,
    to_published,
    unet_parts,
    without_dots,
)

STABLE_DIFFUSION = UNetLevels(4, 2, frozenset({0, 1, 2}))


def meta(make):
    with torch.device("meta"):
        return make()


def to_ours(tensors, parts):
    """Published tensors under our names, every one of which must have its place."""
    renamed, strange = split_known(tensors, parts)
    assert not strange
    return renamed


def shapes(tensors):
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def stable_diffusion_unet(**options):
    from diffusers import UNet2DConditionModel

    return meta(lambda: UNet2DConditionModel(cross_attention_dim=768, **options))


def kl_f8():
    from diffusers import AutoencoderKL

    return meta(
        lambda: AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=4,
            layers_per_block=2,
        )
    )


def clip_l():
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12
    )
    return meta(lambda: CLIPTextModel(config))


def test_the_unet_of_stable_diffusion_has_686_names_each_mapped_once():
    own = stable_diffusion_unet().state_dict()
    attends = [True, True, True, False]
    theirs = {unet_name(key, 2, attends): tensor for key, tensor in own.items()}
    assert len(own) == len(theirs) == 686
    assert sum(tensor.numel() for tensor in theirs.values()) == 859_520_964
    assert shapes(to_ours(theirs, unet_parts(STABLE_DIFFUSION))) == shapes(own)
    assert shapes(to_published(own, unet_parts(STABLE_DIFFUSION))) == shapes(theirs)


def test_the_published_table_of_names_is_spelled_as_in_the_files():
    own = stable_diffusion_unet().state_dict()
    theirs = to_published(own, unet_parts(STABLE_DIFFUSION))
    ends = ("input_blocks.11.0.in_layers.0.weight", "output_blocks.11.1.proj_out.bias")
    for name in (
        "time_embed.0.weight",
        "input_blocks.3.0.op.weight",
        "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight",
        "middle_block.2.out_layers.3.bias",
        "output_blocks.2.1.conv.weight",
        "output_blocks.5.2.conv.weight",
        "out.2.bias",
        *ends,
    ):
        assert name in theirs


def test_the_first_stage_has_248_names_and_its_decoder_runs_from_the_last_level():
    own = kl_f8().state_dict()
    theirs = {first_stage_name(k, 4): first_stage_tensor(k, t) for k, t in own.items()}
    parts = first_stage_parts(FirstStageLevels(4, 2))
    assert len(theirs) == 248
    assert theirs["encoder.mid.attn_1.q.weight"].ndim == 4
    assert "decoder.up.0.block.2.conv2.weight" in theirs
    assert "decoder.up.3.upsample.conv.weight" in theirs
    assert shapes(to_ours(theirs, parts)) == shapes(own)
    assert shapes(to_published(own, parts)) == shapes(theirs)


def test_clip_text_has_196_names_with_and_without_their_prefix():
    own = clip_l().state_dict()
    assert len(own) == 196
    theirs = {f"text_model.{name}": tensor for name, tensor in own.items()}
    assert shapes(to_ours(theirs, clip_parts(theirs))) == shapes(own)
    assert shapes(to_published(own, clip_parts(own))) == shapes(theirs)


def test_ldm_bert_has_the_names_of_our_own_transformer():
    from t2ibench.text.ldm_bert import Transformer

    layout = {"vocabulary_size": 9, "max_length": 5, "width": 8, "depth": 3}
    own = meta(lambda: Transformer(**layout, heads=2, head_width=4)).state_dict()
    own = {f"model.{name}": tensor for name, tensor in own.items()}
    theirs = {ldm_bert_name(name): tensor for name, tensor in own.items()}
    assert "attn_layers.layers.4.1.to_out.bias" in theirs
    assert "attn_layers.layers.5.1.net.0.0.weight" in theirs
    assert shapes(to_ours(theirs, ldm_bert_parts(3))) == shapes(own)


@st.composite
def unet_levels(draw):
    levels = draw(st.integers(1, 5))
    attention = draw(st.frozensets(st.integers(0, levels - 1)))
    return UNetLevels(levels, draw(st.integers(1, 4)), attention)


@given(unet_levels())
def test_any_layout_is_mapped_once_and_back(layout):
    parts = unet_parts(layout)
    assert len({part.published for part in parts}) == len(parts) == len({p.ours for p in parts})
    tensors = {f"{part.published}.weight": torch.zeros(1) for part in parts}
    ours = to_ours(tensors, parts)
    assert len(ours) == len(tensors)
    assert list(to_published(ours, parts)) == list(tensors)


@given(st.integers(1, 6), st.integers(1, 3), st.sets(st.integers(0, 5)))
def test_any_first_stage_is_mapped_once_and_back(levels, blocks, attention):
    layout = FirstStageLevels(levels, blocks, frozenset(a for a in attention if a < levels))
    parts = first_stage_parts(layout)
    tensors = {
        f"{part.published}.weight": torch.zeros(2, 2, 1, 1) if part.pointwise else torch.zeros(2)
        for part in parts
    }
    ours = to_ours(tensors, parts)
    back = to_published(ours, parts)
    assert shapes(back) == shapes(tensors) and len(ours) == len(tensors)


@given(unet_levels().filter(lambda layout: layout.levels > 1), st.data())
def test_the_layout_is_read_from_the_tensors_of_a_single_file(levels, data):
    from diffusers import UNet2DConditionModel

    widths = tuple(32 * data.draw(st.integers(1, 3)) for _ in range(levels.levels))
    kinds = ["CrossAttn" if i in levels.attention_levels else "" for i in range(levels.levels)]
    unet = meta(
        lambda: UNet2DConditionModel(
            block_out_channels=widths,
            down_block_types=[f"{kind}DownBlock2D" for kind in kinds],
            up_block_types=[f"{kind}UpBlock2D" for kind in reversed(kinds)],
            layers_per_block=levels.blocks,
            in_channels=data.draw(st.sampled_from([4, 9])),
            cross_attention_dim=24,
            attention_head_dim=8,
        )
    )
    attends = [bool(kind) for kind in kinds]
    theirs = {unet_name(k, levels.blocks, attends): t for k, t in unet.state_dict().items()}
    layout = UNetLayout(
        in_channels=unet.config.in_channels,
        out_channels=4,
        channels=widths,
        blocks=levels.blocks,
        attention_levels=tuple(sorted(levels.attention_levels)),
        text_width=24,
        heads=8,
        depth=1,
        groups=32,
    )
    assert unet_from_shapes(shapes(theirs), "file") == layout
    assert unet_from_own_names(shapes(unet.state_dict()), heads=8, groups=32) == layout


def test_the_first_stage_and_clip_are_read_from_the_tensors():
    own = kl_f8().state_dict()
    theirs = {first_stage_name(k, 4): first_stage_tensor(k, t) for k, t in own.items()}
    layout = first_stage_from_shapes(shapes(theirs), "file")
    assert layout.channels == (128, 256, 512, 512)
    assert (layout.latent_channels, layout.blocks, layout.attention_levels) == (4, 2, ())
    text = clip_l()
    config = clip_config_from_shapes(shapes(text.state_dict()), "file")
    for key in ("hidden_size", "num_attention_heads", "num_hidden_layers", "vocab_size"):
        assert config[key] == getattr(text.config, key), key
    assert config["max_position_embeddings"] == 77 and config["hidden_act"] == "quick_gelu"


def test_linear_projections_are_refused_as_version_two():
    unet = stable_diffusion_unet(use_linear_projection=True)
    theirs = {unet_name(k, 2, [True, True, True, False]): t for k, t in unet.state_dict().items()}
    with pytest.raises(CheckpointError, match="v2's or XL's kind"):
        unet_from_shapes(shapes(theirs), "file")


def test_running_averages_are_found_by_names_without_dots():
    own = stable_diffusion_unet().state_dict()
    theirs = to_published(own, unet_parts(STABLE_DIFFUSION))
    averages = {
        without_dots("diffusion_model." + n): torch.ones(1) * i for i, n in enumerate(theirs)
    }
    assert "diffusion_modelinput_blocks00weight" in averages
    found = averaged(theirs, averages | {"decay": torch.ones(())}, "diffusion_model.")
    assert [int(t) for t in found.values()] == list(range(686))
    averages.pop("diffusion_modelout2bias")
    with pytest.raises(CheckpointError, match=r"out\.2\.bias.*use_ema=false"):
        averaged(theirs, averages, "diffusion_model.")


def test_early_folders_call_their_attention_otherwise():
    assert modern_name("encoder.mid_block.attentions.0.query.weight").endswith("to_q.weight")
    assert modern_name("decoder.mid_block.attentions.0.proj_attn.bias").endswith("to_out.0.bias")
    assert modern_name("encoder.conv_in.weight") == "encoder.conv_in.weight"
