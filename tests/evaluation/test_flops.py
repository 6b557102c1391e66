"""Counted FLOPs of fused kernels against their plain or closed form, and refusals by name."""

import pytest
import torch
from torch import library, nn
from torch.utils.flop_counter import flop_registry

from t2ibench.core.errors import CostError
from t2ibench.evaluation.flops import FORMULAS, PartFlops, count_flops, multiplies
from t2ibench.text.word import WordLSTM

STEPS, ROWS, IN, HIDDEN = 7, 16, 24, 32
GATES = {nn.LSTM: 4, nn.GRU: 3, nn.RNN: 1}


def closed_form(kind, directions=1, layers=1, steps=STEPS * ROWS):
    """Every gate's product with the input and the state, for each step, layer and direction."""
    widths = [IN] + [directions * HIDDEN] * (layers - 1)
    return sum(2 * steps * GATES[kind] * HIDDEN * (w + HIDDEN) * directions for w in widths)


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_recurrent_layers_are_their_gates(kind, layers, bidirectional):
    torch.manual_seed(0)
    layer = kind(IN, HIDDEN, layers, bidirectional=bidirectional)
    x = torch.randn(STEPS, ROWS, IN, requires_grad=True)
    forward = closed_form(kind, 1 + bidirectional, layers)
    assert count_flops(lambda: layer(x)) == forward
    trained = count_flops(lambda: layer(x)[0].sum().backward())
    # The plain form leaves out the gradient of the first state.
    assert trained == pytest.approx(3 * forward, rel=2 / STEPS / 3)
    assert trained <= 3 * forward


def test_packed_sequences_count_their_steps():
    lengths = [7] * 4 + [5] * 8 + [2] * 4
    layer = nn.LSTM(IN, HIDDEN, bidirectional=True)
    packed = nn.utils.rnn.pack_padded_sequence(torch.randn(STEPS, ROWS, IN), lengths)
    assert count_flops(lambda: layer(packed)) == closed_form(nn.LSTM, 2, steps=sum(lengths))


@pytest.mark.parametrize("captions", [["a red ring"] * 16, ["a red ring", "ring"] * 8])
def test_a_word_lstm_trains_with_the_flops_of_its_gates(captions):
    """Forward, gradients of weights, gradients of inputs; 4 gates of D / 2, two directions."""
    encoder = WordLSTM(vocabulary=["a", "red", "ring"], width=128, max_length=24)
    tokens = sum(len(c.split()) + 1 for c in captions)  # an end token closes each
    forward = 2 * tokens * 2 * 4 * 64 * (128 + 64)
    assert count_flops(lambda: encoder.encode(captions)) == forward
    trained = count_flops(lambda: encoder.encode(captions).tokens.sum().backward())
    assert 2.7 * forward < trained <= 3 * forward


def test_the_kernels_of_gpus_count_what_the_plain_layers_count():
    """The arguments of cuDNN's recurrent kernels and of a fused attention, without their device."""
    layer = nn.LSTM(IN, HIDDEN, 2, bidirectional=True)
    steps = torch.zeros(STEPS, ROWS, IN)
    weights = list(layer.parameters())
    forward = FORMULAS[torch.ops.aten._cudnn_rnn](
        steps, weights, 4, None, None, None, 2, HIDDEN, 0, 2, False, 0.0, True, True, [], None
    )
    assert forward == count_flops(lambda: layer(steps))
    backward = FORMULAS[torch.ops.aten._cudnn_rnn_backward](steps, weights, 4, torch.zeros(1))
    assert backward == 2 * forward
    q = torch.zeros(2, 4, 16, 8, requires_grad=True)
    k = torch.zeros(2, 4, 9, 8, requires_grad=True)
    attend = nn.functional.scaled_dot_product_attention
    fused = FORMULAS[torch.ops.aten._scaled_dot_product_fused_attention_overrideable]
    assert fused(q, k, k, None) == count_flops(lambda: attend(q, k, k))
    back = FORMULAS[torch.ops.aten._scaled_dot_product_fused_attention_overrideable_backward]
    both = count_flops(lambda: attend(q, k, k).sum().backward())
    assert fused(q, k, k, None) + back(q, q, k, k, None) == both


def test_inference_kernels_count_what_the_layers_do():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 48, batch_first=True).eval()
    attention = nn.MultiheadAttention(16, 2, batch_first=True).eval()
    x = torch.randn(3, 5, 16)
    plain = count_flops(lambda: layer(x))
    by_hand = 3 * 5 * 2 * 16 * (4 * 16 + 2 * 48) + 3 * 4 * 5 * 5 * 16
    assert plain == by_hand
    with torch.no_grad():  # one kernel for the whole layer
        assert count_flops(lambda: layer(x)) == plain
        short = torch.tensor([[False] * 5, [False] * 3 + [True] * 2, [False] * 5])
        encoder = nn.TransformerEncoder(layer, 1)
        nested = count_flops(lambda: encoder(x, src_key_padding_mask=short))
        assert nested == 13 * 2 * 16 * (4 * 16 + 2 * 48) + 4 * 16 * (25 + 9 + 25)
        assert count_flops(lambda: attention(x, x, x, need_weights=False)) == (
            3 * 5 * 2 * 16 * 4 * 16 + 3 * 4 * 5 * 5 * 16
        )


@pytest.mark.parametrize(
    "call, flops",
    [
        (lambda: torch.zeros(5, 7) @ torch.zeros(7), 70),
        (lambda: torch.zeros(7) @ torch.zeros(7), 14),
        (lambda: torch.addmv(torch.zeros(5), torch.zeros(5, 7), torch.zeros(7)), 70),
        (lambda: torch.addbmm(torch.zeros(2, 3), torch.zeros(4, 2, 5), torch.zeros(4, 5, 3)), 240),
        (lambda: torch.cdist(torch.zeros(40, 5), torch.zeros(30, 5)), 12_000),
        (lambda: torch.cdist(torch.zeros(4, 5), torch.zeros(3, 5)), 120),
        (lambda: nn.Bilinear(2, 3, 4)(torch.zeros(5, 2), torch.zeros(5, 3)), 360),
    ],
)
def test_products_beside_mm_are_counted(call, flops):
    assert count_flops(call) == flops


def test_a_custom_backward_is_counted():
    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx, a, b):
            ctx.save_for_backward(a, b)
            return a @ b

        @staticmethod
        def backward(ctx, gradient):
            a, b = ctx.saved_tensors
            return gradient @ b.T, a.T @ gradient

    a = torch.randn(3, 5, requires_grad=True)
    b = torch.randn(5, 7, requires_grad=True)
    assert count_flops(lambda: Product.apply(a, b).sum().backward()) == 3 * 2 * 3 * 5 * 7


@library.custom_op("somebody::fused_product", mutates_args=())
def fused_product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """A kernel of somebody's package: the counter sees nothing inside."""
    return a @ b


@pytest.mark.parametrize(
    "call, name",
    [
        (lambda: fused_product(torch.ones(2, 3), torch.ones(3, 4)), "somebody::fused_product"),
        (lambda: torch.linalg.svd(torch.ones(3, 3)), "aten::_linalg_svd"),
        (lambda: torch.linalg.solve(torch.eye(3), torch.ones(3)), "aten::_linalg_solve_ex"),
    ],
)
def test_what_has_no_formula_is_refused_by_name(call, name):
    with pytest.raises(CostError, match=f"{name} .*register_flop_formula"):
        count_flops(call)
    with PartFlops({}) as counter:
        call()
    with pytest.raises(CostError, match=name):
        counter.unknown.refuse()


def test_a_formula_that_a_package_registers_is_used(monkeypatch):
    def formula(a, b, out_shape=None):
        return 2 * a[0] * a[1] * b[1]

    from torch.utils import flop_counter

    registry = dict(flop_registry)
    monkeypatch.setattr(flop_counter, "flop_registry", registry)
    flop_counter.register_flop_formula(torch.ops.somebody.fused_product)(formula)
    call = lambda: fused_product(torch.ones(2, 3), torch.ones(3, 4))  # noqa: E731
    assert count_flops(call) == 48


def test_every_kernel_that_pytorch_counts_is_known_as_a_product():
    """The rule of names finds all that PyTorch has a formula for, and no elementwise work."""
    counted = [op for op in [*flop_registry, *FORMULAS] if hasattr(op, "overloads")]
    found = [op for op in counted if multiplies(getattr(op, op.overloads()[0]))]
    assert found == counted and len(counted) > 30
    harmless = "add mul silu native_group_norm upsample_bilinear2d lgamma sigmoid embedding sum"
    harmless += " grid_sampler_2d linalg_vector_norm _softmax cumsum gather sort slice_inverse"
    harmless += " bitwise_not erfinv outer im2col _foreach_addcmul _thnn_fused_lstm_cell addcmul"
    for name in harmless.split():
        packet = getattr(torch.ops.aten, name)
        assert not multiplies(getattr(packet, packet.overloads()[0])), name


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("groups", [1, 4])
def test_a_convolutions_gradients_cost_what_it_costs_each(transposed, groups):
    kind = torch.nn.ConvTranspose2d if transposed else torch.nn.Conv2d
    layer, x = kind(8, 4, 3, stride=2, groups=groups), torch.randn(2, 8, 9, 9, requires_grad=True)
    forward = count_flops(lambda: layer(x))
    side = 9 if transposed else 4
    assert forward == 2 * 2 * 8 * 4 * 9 * side**2 / groups
    assert count_flops(lambda: layer(x).sum().backward()) == 3 * forward
