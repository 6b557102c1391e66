"""An independent converter: names of diffusers and transformers modules to CompVis names.

Written from the published table of names, key by key and the other way round than the library's.
"""

import re

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
TOP = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def unet_name(key, blocks, attends):
    """``attends``: whether each level, the largest map first, has attention."""
    module, kind = key.rsplit(".", 1)
    if module in TOP:
        return f"{TOP[module]}.{kind}"
    if m := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d)\.(.+)", module):
        if m[1] == "attentions":
            return f"middle_block.1.{m[3]}.{kind}"
        return f"middle_block.{2 * int(m[2])}.{RESNET[m[3]]}.{kind}"
    m = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.+)", module)
    way, level, what, place, rest = m[1], int(m[2]), m[3], int(m[4]), m[5]
    if way == "down":
        number = level * (blocks + 1) + place + 1
        if what == "resnets":
            return f"input_blocks.{number}.0.{RESNET[rest]}.{kind}"
        if what == "attentions":
            return f"input_blocks.{number}.1.{rest}.{kind}"
        return f"input_blocks.{(level + 1) * (blocks + 1)}.0.op.{kind}"
    number = level * (blocks + 1) + place
    if what == "resnets":
        return f"output_blocks.{number}.0.{RESNET[rest]}.{kind}"
    if what == "attentions":
        return f"output_blocks.{number}.1.{rest}.{kind}"
    inside = 2 if attends[len(attends) - 1 - level] else 1
    return f"output_blocks.{level * (blocks + 1) + blocks}.{inside}.conv.{kind}"


def first_stage_name(key, levels):
    for half in ("encoder", "decoder"):
        key = re.sub(
            rf"^{half}\.mid_block\.resnets\.(\d)",
            lambda m, half=half: f"{half}.mid.block_{int(m[1]) + 1}",
            key,
        )
        key = key.replace(f"{half}.mid_block.attentions.0", f"{half}.mid.attn_1")
        key = key.replace(f"{half}.conv_norm_out", f"{half}.norm_out")
    key = re.sub(r"^encoder\.down_blocks\.(\d+)", r"encoder.down.\1", key)
    key = re.sub(
        r"^decoder\.up_blocks\.(\d+)", lambda m: f"decoder.up.{levels - 1 - int(m[1])}", key
    )
    key = re.sub(r"\.resnets\.(\d+)", r".block.\1", key)
    key = re.sub(r"\.attentions\.(\d+)", r".attn.\1", key)
    key = key.replace("downsamplers.0", "downsample").replace("upsamplers.0", "upsample")
    key = key.replace("conv_shortcut", "nin_shortcut").replace("group_norm", "norm")
    return re.sub(r"\.to_(q|k|v)\.", r".\1.", key).replace("to_out.0", "proj_out")


def first_stage_tensor(key, tensor):
    """The file's attention weights are 1x1 convolutions."""
    if tensor.ndim == 2 and re.search(r"\.to_(q|k|v|out\.0)\.weight$", key):
        return tensor[:, :, None, None].contiguous()
    return tensor


def ldm_bert_name(key):
    """From diffusers' ``LDMBertModel``."""
    names = {
        "model.embed_tokens": "token_emb",
        "model.embed_positions": "pos_emb.emb",
        "model.layer_norm": "norm",
        "to_logits": "to_logits",
    }
    module, kind = key.rsplit(".", 1)
    if module in names:
        return f"{names[module]}.{kind}"
    m = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", module)
    layer, rest = int(m[1]), m[2]
    inner = {
        "self_attn_layer_norm": (0, "0"),
        "self_attn.q_proj": (0, "1.to_q"),
        "self_attn.k_proj": (0, "1.to_k"),
        "self_attn.v_proj": (0, "1.to_v"),
        "self_attn.out_proj": (0, "1.to_out"),
        "final_layer_norm": (1, "0"),
        "fc1": (1, "1.net.0.0"),
        "fc2": (1, "1.net.2"),
    }[rest]
    return f"attn_layers.layers.{2 * layer + inner[0]}.{inner[1]}.{kind}"


def single_file(unet, vae, text):
    """A CompVis state dict of diffusers and transformers modules."""
    levels = len(unet.config.block_out_channels)
    attends = ["CrossAttn" in name for name in unet.config.down_block_types]
    blocks = unet.config.layers_per_block
    state = {
        f"model.diffusion_model.{unet_name(key, blocks, attends)}": tensor
        for key, tensor in unet.state_dict().items()
    }
    assert len(attends) == levels
    for key, tensor in vae.state_dict().items():
        name = first_stage_name(key, len(vae.config.block_out_channels))
        state[f"first_stage_model.{name}"] = first_stage_tensor(key, tensor)
    for key, tensor in text.state_dict().items():
        state[f"cond_stage_model.transformer.text_model.{key}"] = tensor
    return state
