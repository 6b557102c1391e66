"""OpenAI's packed attention: both orders give the attention of their released code."""

import pytest
import torch

from t2ibench.core.errors import CheckpointError, ConfigError
from t2ibench.interop.adm import adm_parts, import_adm, split_attention
from t2ibench.interop.tensor_names import UNetLevels


def packed_attention(x, qkv, heads, order):
    """q k^T v as the two released classes cut the packed rows; x: (B, C, T)."""
    batch, width, length = x.shape
    rows = torch.einsum("oi,bit->bot", qkv, x)
    if order == "legacy":
        q, k, v = rows.reshape(batch * heads, 3 * width // heads, length).split(width // heads, 1)
    else:
        q, k, v = (r.reshape(batch * heads, width // heads, length) for r in rows.chunk(3, dim=1))
    weight = torch.einsum("bct,bcs->bts", q, k).div((width // heads) ** 0.5).softmax(-1)
    return torch.einsum("bts,bcs->bct", weight, v).reshape(batch, width, length)


@pytest.mark.parametrize("order", ["legacy", "new"])
def test_split_rows_attend_as_the_packed_ones(order):
    torch.manual_seed(0)
    width, heads = 12, 3
    qkv, x = torch.randn(3 * width, width), torch.randn(2, width, 5)
    split = split_attention({"a.qkv.weight": qkv[:, :, None]}, order=order, heads=heads)
    q, k, v = (
        (x.transpose(1, 2) @ split[f"a.{n}.weight"].T).unflatten(2, (heads, -1)).transpose(1, 2)
        for n in "qkv"
    )
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    out = out.transpose(1, 2).flatten(2).transpose(1, 2)
    torch.testing.assert_close(out, packed_attention(x, qkv, heads, order))


def test_the_two_orders_differ_and_neither_is_guessed():
    weight = torch.randn(3 * 8, 8, 1)
    one, other = (
        split_attention({"a.qkv.weight": weight}, order=order, head_width=4)["a.q.weight"]
        for order in ("legacy", "new")
    )
    assert not torch.equal(one, other)
    with pytest.raises(ConfigError, match="choose legacy, new"):
        split_attention({}, order="", heads=4)
    with pytest.raises(ConfigError, match="either heads or head_width"):
        split_attention({}, order="new", heads=4, head_width=4)
    with pytest.raises(CheckpointError, match="5 heads do not divide 8"):
        split_attention({"a.qkv.bias": torch.zeros(24)}, order="new", heads=5)


def test_names_become_those_of_the_unconditional_unet():
    from diffusers import UNet2DModel

    with torch.device("meta"):
        own = UNet2DModel(
            block_out_channels=(32, 64),
            down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
            layers_per_block=2,
            downsample_type="resnet",
            upsample_type="resnet",
            resnet_time_scale_shift="scale_shift",
            attention_head_dim=32,
            num_class_embeds=10,
            in_channels=3,
            out_channels=6,
        ).state_dict()
    layout = UNetLevels(2, 2, frozenset({1}))
    back = {p.ours: p.published for p in adm_parts(layout)}
    theirs, packed = {}, {}
    for name, tensor in own.items():
        module, kind = name.rsplit(".", 1)
        published = back[module]
        owner, _, letter = published.rpartition(".")
        if letter in ("q", "k", "v") and "attentions" in module:
            packed.setdefault(f"{owner}.qkv.{kind}", []).append(torch.zeros(tensor.shape))
        elif letter == "proj_out" and kind == "weight":
            theirs[f"{published}.{kind}"] = torch.zeros(tensor.shape)[:, :, None]
        else:
            theirs[f"{published}.{kind}"] = torch.zeros(tensor.shape)
    for name, three in packed.items():
        rows = torch.cat(three)
        theirs[name] = rows[:, :, None] if rows.ndim == 2 else rows
    assert "input_blocks.3.0.in_layers.2.weight" in theirs  # a residual block that halves
    assert "output_blocks.2.2.out_layers.3.weight" in theirs
    assert theirs["middle_block.1.qkv.weight"].shape == (192, 64, 1)
    ours = import_adm(theirs, layout, order="new", head_width=32)
    assert {n: t.shape for n, t in ours.items()} == {n: t.shape for n, t in own.items()}
