"""Counted FLOPs: matrix products, convolutions, attention, recurrent networks; by part of a model.

PyTorch's counter knows products, convolutions and its own attention kernels, and gives everything
else zero, a fused LSTM as well as a kernel of a package. Here a fused kernel has a formula, or it
is refused by its name.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import (
    FlopCounterMode,
    flop_registry,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

from t2ibench.core.errors import CostError

OTHER, OPTIMIZER = "other", "optimizer"
"""Names of what is spent in no part of a model: losses, the optimiser's own products."""

PRODUCT = re.compile(
    r"(?:^|_)(?:(?:add|badd|h|s|sp|ssp)?b?mm|(?:add)?mv|(?:v|vec)?dot|tensordot|matmul|einsum"
    r"|linear|bilinear|trilinear|chain|conv|conv\d[dD]?|convolution|depthwise|attention|attn"
    r"|multihead|transformer|lstm|gru|rnn|cdist|pdist|euclidean|linalg|svd|eigh?|geqrf|or[gm]qr"
    r"|cholesky|solve|inverse|pinverse|triangular)(?:_|$)"
)
"""Names of operations that multiply matrices: those that may not be counted as zero."""

ELEMENTWISE = frozenset(
    {
        "_thnn_fused_lstm_cell",  # gates alone: its products are operations of their own
        "_thnn_fused_lstm_cell_backward_impl",
        "_thnn_fused_gru_cell",
        "_thnn_fused_gru_cell_backward",
        "_cudnn_rnn_flatten_weight",
        "_use_cudnn_rnn_flatten_weight",
        "linalg_vector_norm",
        "linalg_cross",
        "linalg_diagonal",
        "slice_inverse",
        "mkldnn_reorder_conv2d_weight",
        "mkldnn_reorder_conv3d_weight",
    }
)
"""Operations that sound like products and are none."""

OF_PYTORCH = frozenset(
    {"prim", "prims", "rngprims", "profiler", "c10d", "_c10d_functional", "c10d_functional", "fsdp"}
    | {"_c10d_functional_autograd", "symm_mem", "inductor", "_dtensor", "device_mesh"}
)
"""Namespaces whose operations move or describe data; ``aten`` is judged by name."""

Formula = Callable[..., int]
FORMULAS: dict[Any, Formula] = {}
"""Operation -> its FLOPs from its arguments, beside those that PyTorch has."""


def count_flops(call: Callable[[], Any]) -> float:
    """FLOPs of matrix products, convolutions, attention and recurrent layers, forward and backward.

    1 MAC = 2 FLOP; attention is counted as its two products, a recurrent layer as those of its
    gates. Elementwise work, sums, Fourier transforms and sorting are not counted, as in the
    papers' own counts.

    Raises:
        CostError: an operation is met that multiplies matrices and has no formula.
    """
    counter = FlopCounterMode(display=False, custom_mapping=FORMULAS)
    with Unknown(counter.flop_registry) as unknown, counter:
        call()
    unknown.refuse()
    return float(counter.get_total_flops())


class PartFlops(FlopCounterMode):
    """Counts FLOPs as ``count_flops`` does, and by the part of a model that they are spent in.

    What runs in no part (a loss with matrix products) is ``other``.

    Args:
        parts: the networks by name.

    Attributes:
        by_part: part -> FLOPs so far.
        unknown: operations met that have no formula; ``unknown.refuse()`` raises for them.
    """

    def __init__(self, parts: Mapping[str, nn.Module]) -> None:
        self.by_part: dict[str, float] = {}
        self._parts = dict(parts)
        self._charged: str | None = None
        self._inside: str = OTHER
        self._before: set[str] = set()
        known = flop_registry | FORMULAS
        formulas = {op: self._charging(formula) for op, formula in known.items()}
        super().__init__(display=False, custom_mapping=formulas)
        self.unknown = Unknown(self.flop_registry)

    def __enter__(self) -> PartFlops:
        self.unknown.__enter__()
        super().__enter__()
        _Naming(self._parts)()
        return self

    def __exit__(self, *error: Any) -> Any:
        result = super().__exit__(*error)
        self.unknown.__exit__(*error)
        return result

    def charge(self, name: str | None) -> None:
        """Charges what follows to ``name``; None: to the part that runs."""
        self._charged = name

    def _charging(self, formula: Callable[..., int]) -> Callable[..., int]:
        def charged(*args: Any, **kwargs: Any) -> int:
            count = formula(*args, **kwargs)
            part = self._charged or self._part()
            self.by_part[part] = self.by_part.get(part, 0.0) + count
            return count

        charged._get_raw = True  # type: ignore[attr-defined]
        return charged

    def _part(self) -> str:
        """The part that was entered last of those that are not left.

        In a backward pass a layer whose input needs no gradient is left only at the end.
        """
        now = set(self.mod_tracker.parents)
        entered = self._among(now - self._before)
        if entered:
            self._inside = entered[-1]
        elif self._inside not in self._among(now):
            self._inside = next(iter(self._among(now)), OTHER)
        self._before = now
        return self._inside

    def _among(self, running: set[str]) -> list[str]:
        prefix = f"{_Naming.__name__}.parts."
        first = {name.removeprefix(prefix).split(".")[0] for name in running if prefix in name}
        return [name for name in self._parts if name in first]


class _Naming(nn.Module):
    """Parent of all parts, called once so that the counter knows each layer's part."""

    def __init__(self, parts: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(parts)

    def forward(self) -> None:
        """Does nothing."""


class Unknown(TorchDispatchMode):
    """Operations met that multiply matrices and have no formula.

    Entered before a counter, so that it sees what the counter makes of composite operations.

    Args:
        known: operations that the counter has a formula for.

    Attributes:
        met: name -> how often it was met.
    """

    supports_higher_order_operators = True

    def __init__(self, known: Mapping[Any, Any]) -> None:
        super().__init__()
        self.met: Counter[str] = Counter()
        self._known = known

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the operation and notes it where nobody knows its FLOPs."""
        packet = getattr(func, "_overloadpacket", func)
        if packet not in self._known and multiplies(func):
            self.met[str(packet).replace(".", "::", 1)] += 1
        return func(*args, **(kwargs or {}))

    def refuse(self) -> None:
        """Refuses what was met.

        Raises:
            CostError: something was.
        """
        if self.met:
            raise CostError(
                f"the FLOPs of {', '.join(sorted(self.met))} are not known, and a count without "
                "them would be too low; give each a formula by "
                "torch.utils.flop_counter.register_flop_formula where the model is defined, or "
                "use the operation's plain PyTorch form."
            )


def multiplies(func: Any) -> bool:
    """True for an operation whose FLOPs are no rounding error, by its namespace and name."""
    namespace = getattr(func, "namespace", "higher_order")
    if namespace in OF_PYTORCH:
        return False
    if namespace == "higher_order":
        return "triton" in func.name() or "attention" in func.name()
    if namespace != "aten":
        return True
    name = func._overloadpacket.__name__
    return name not in ELEMENTWISE and PRODUCT.search(name) is not None


def of(*names: str) -> Callable[[Formula], Formula]:
    """Enters a formula for operations of ``aten``; those that this PyTorch lacks are passed by."""

    def enter(formula: Formula) -> Formula:
        def of_arguments(*args: Any, out_val: Any = None, **kwargs: Any) -> int:
            return formula(*args, **kwargs)

        of_arguments._get_raw = True  # type: ignore[attr-defined]
        for name in names:
            if hasattr(torch.ops.aten, name):
                FORMULAS[getattr(torch.ops.aten, name)] = of_arguments
        return formula

    return enter


@of("mv")
def matrix_vector(matrix: Tensor, vector: Tensor) -> int:
    """2 R C of a matrix (R, C) times a vector."""
    return 2 * matrix.numel()


@of("addmv")
def added_matrix_vector(added: Tensor, matrix: Tensor, vector: Tensor, **_: Any) -> int:
    """2 R C of a matrix (R, C) times a vector."""
    return 2 * matrix.numel()


@of("dot", "vdot")
def scalar_product(a: Tensor, b: Tensor) -> int:
    """2 D of two vectors of D numbers."""
    return 2 * a.numel()


@of("addbmm")
def added_products(added: Tensor, a: Tensor, b: Tensor, **_: Any) -> int:
    """2 K R I C of K products (R, I) times (I, C)."""
    return 2 * a.numel() * b.shape[-1]


@of("_int_mm")
def whole_number_product(a: Tensor, b: Tensor) -> int:
    """2 R I C of a product (R, I) times (I, C)."""
    return 2 * a.numel() * b.shape[-1]


@of("_euclidean_dist", "_cdist_forward")
def distances(a: Tensor, b: Tensor, *_: Any) -> int:
    """2 R C D of all distances between R and C vectors of D numbers."""
    return 2 * a.numel() * b.shape[-2]


@of("_cdist_backward")
def distances_backward(gradient: Tensor, a: Tensor, b: Tensor, *_: Any) -> int:
    """2 R C D: every pair's difference once more."""
    return distances(a, b)


@of("convolution_backward")
def convolution_backward(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: Sequence[int] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    output_mask: Sequence[bool],
) -> int:
    """The forward pass once more for each of the gradients of input and weights.

    PyTorch's own formula multiplies the gradient of grouped weights by the number of groups.
    """
    places = x if transposed else gradient
    return 2 * places.numel() * weight[0].numel() * sum(output_mask[:2])


@of("_trilinear")
def trilinear(a: Tensor, weight: Tensor, b: Tensor, *_: Any) -> int:
    """2 R O A B + 2 R O B of a bilinear layer from widths A and B to O, for R rows."""
    rows = a.numel() // a.shape[-1]
    return 2 * rows * (weight.numel() + weight.shape[0] * b.shape[-1])


def gates(rows: int, weights: Sequence[Tensor]) -> int:
    """2 rows sum(weights): every weight matrix of a recurrent layer meets every step of every row.

    Args:
        rows: steps of all sequences.
        weights: of all layers and directions; vectors (biases) count nothing.
    """
    return 2 * rows * sum(w.numel() for w in weights if w.ndim == 2)


@of("mkldnn_rnn_layer")
def mkldnn_layer(steps: Tensor, of_input: Tensor, of_state: Tensor, *_: Any) -> int:
    """One layer and direction of an LSTM or GRU on the CPU."""
    return gates(steps.numel() // steps.shape[-1], [of_input, of_state])


@of("mkldnn_rnn_layer_backward")
def mkldnn_layer_backward(steps: Tensor, of_input: Tensor, of_state: Tensor, *_: Any) -> int:
    """Twice the forward pass: gradients of the weights, and of inputs and states."""
    return 2 * mkldnn_layer(steps, of_input, of_state)


@of("_cudnn_rnn", "miopen_rnn")
def fused_recurrent(steps: Tensor, weights: Sequence[Tensor], *_: Any) -> int:
    """All layers and directions of an LSTM, GRU or RNN on a GPU; sequences packed or padded."""
    return gates(steps.numel() // steps.shape[-1], weights)


@of("_cudnn_rnn_backward", "miopen_rnn_backward")
def fused_recurrent_backward(steps: Tensor, weights: Sequence[Tensor], *_: Any) -> int:
    """Twice the forward pass: gradients of the weights, and of inputs and states."""
    return 2 * fused_recurrent(steps, weights)


@of("_lstm_mps")
def mps_lstm(steps: Tensor, state: Sequence[Tensor], weights: Sequence[Tensor], *_: Any) -> int:
    """All layers and directions of an LSTM on Apple's GPUs."""
    return gates(steps.numel() // steps.shape[-1], weights)


@of(
    "_scaled_dot_product_fused_attention_overrideable", "_scaled_dot_product_attention_math_for_mps"
)
def attention(q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> int:
    """Two products of an attention of other devices."""
    return sdpa_flop_count(q.shape, k.shape, v.shape)


@of("_scaled_dot_product_fused_attention_overrideable_backward")
def attention_backward(
    gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any
) -> int:
    """Five products: the scores once more, and the gradients of scores, q, k and v."""
    return sdpa_backward_flop_count(gradient.shape, q.shape, k.shape, v.shape)


@of("_native_multi_head_attention")
def multi_head_attention(
    query: Tensor, key: Tensor, value: Tensor, width: int, heads: int,
    qkv: Tensor, qkv_bias: Tensor, projection: Tensor, *_: Any, **__: Any,
) -> int:  # fmt: skip
    """Projections of q, k, v and of the output, and the two products of all heads."""
    # Row by row, as a nested batch has captions of different lengths.
    pairs = zip(query.unbind(), key.unbind(), strict=True)
    products = sum(4 * len(q) * len(k) * width for q, k in pairs)
    projected = query.numel() + key.numel() + value.numel() + query.numel()
    return products + 2 * projected * width


@of("_transformer_encoder_layer_fwd")
def transformer_layer(
    source: Tensor, width: int, heads: int, qkv: Tensor, qkv_bias: Tensor, projection: Tensor,
    projection_bias: Tensor, *rest: Any, **_: Any,
) -> int:  # fmt: skip
    """A whole encoder layer in inference: attention as above, and the two layers behind it."""
    wide, narrow = rest[7], rest[9]
    behind = 2 * (source.numel() // width) * (wide.numel() + narrow.numel())
    return behind + multi_head_attention(
        source, source, source, width, heads, qkv, qkv_bias, projection
    )
