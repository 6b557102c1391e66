"""Muon: momentum whose matrices are orthogonalised before the step; AdamW for all else."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.adamw import adamw

from t2ibench.core.shards import part_of, whole

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic, which lifts small singular values fastest and leaves all near 1."""

ADAM_RMS = 0.2
"""Root mean square of Adam's usual update, in learning rates."""


def orthogonalise(matrices: Float[Tensor, "K R C"], iterations: int = 5) -> Float[Tensor, "K R C"]:
    """Approximates U V^T of each matrix U S V^T: singular values end in about [0.7, 1.2].

    X_0 = M / |M|_F, then X <- q(A) X with A = X X^T and q(A) = a + b A + c A^2. As q(A)
    commutes with A, the products can be gathered first, P <- q(A) P and A <- q(A)^2 A, all of
    them R x R, and X_0 multiplied once: 4 R^2 C + 34 R^3 FLOPs in place of 20 R^2 C + 10 R^3.

    Args:
        matrices: (K, R, C) with R <= C, which keeps A small.
        iterations: of the quintic.

    Source: Jordan et al. 2024 (Muon), the Newton-Schulz iteration and its coefficients.
    Differs: the gathered form for wide matrices.
    """
    a, b, c = COEFFICIENTS
    x = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    rows, columns = x.shape[1:]
    if 2 * columns <= 3 * rows:
        for _ in range(iterations):
            gram = torch.bmm(x, x.mT)
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
        return x
    gram = torch.bmm(x, x.mT)
    product = None
    for i in range(iterations):
        quintic = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        quintic.diagonal(dim1=1, dim2=2).add_(a)
        product = quintic if product is None else torch.bmm(quintic, product)
        if i + 1 < iterations:
            gram = torch.bmm(quintic, torch.bmm(quintic, gram))
    return x if product is None else torch.bmm(product, x)


class Muon(Optimizer):
    """Optimiser W <- (1 - lr wd) W - lr 0.2 sqrt(max(R, C)) orthogonalise(momentum), else AdamW.

    Convolutions are matrices of output channels times the rest. Biases, gains and matrices
    with a side below ``least_side`` follow AdamW, in a parameter group of their own.

    Args:
        params: all trainable parameters.
        lr: learning rate of matrices, in Adam's units.
        momentum: of matrices, with Nesterov's look-ahead.
        adam_lr: learning rate of everything else.
        adam_betas: of everything else.
        weight_decay: decoupled, of everything.
        least_side: shortest side of a matrix that is orthogonalised. It should be at most the
            narrowest layer of the narrowest size, or narrow networks are trained by AdamW and
            wide ones by Muon, and a comparison of sizes compares optimisers.

    Source: Jordan et al. 2024 (Muon); the scale 0.2 sqrt(max(R, C)) from Liu et al. 2025
        (Moonlight), eq. 4.
    Differs: input layers and embeddings are matrices like others, chosen by size alone.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        *,
        lr: float,
        momentum: float,
        adam_lr: float,
        adam_betas: Sequence[float],
        weight_decay: float,
        least_side: int,
    ) -> None:
        def is_matrix(p: Tensor) -> bool:
            return p.ndim >= 2 and min(p.shape[0], p.shape[1:].numel()) >= least_side

        everything = list(params)
        groups: list[dict[str, Any]] = [
            {"params": [p for p in everything if is_matrix(p)], "kind": "matrix"},
            {"params": [p for p in everything if not is_matrix(p)], "kind": "adam", "lr": adam_lr},
        ]
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "betas": tuple(adam_betas),
            "weight_decay": weight_decay,
        }
        super().__init__([g for g in groups if g["params"]], defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One step of both kinds of group."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            live = [p for p in group["params"] if p.grad is not None]
            if live and group["kind"] == "matrix":
                self._step_matrices(live, group)
            elif live:
                self._step_adam(live, group)
        return loss

    def _step_matrices(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Steps the matrices; those of one shape are orthogonalised as one batch."""
        grads = [p.grad for p in parameters if p.grad is not None]
        momenta = [self._state(p, "momentum") for p in parameters]
        torch._foreach_lerp_(momenta, grads, 1 - group["momentum"])
        batches: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for p, grad, momentum in zip(parameters, grads, momenta, strict=True):
            # Of a sharded matrix every rank orthogonalises the whole and takes its part.
            ahead = whole(grad.lerp(momentum, group["momentum"])).flatten(1)
            wide = ahead.mT if ahead.shape[0] > ahead.shape[1] else ahead
            batches[(wide.shape[0], wide.shape[1])].append((p, wide))
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        for (_, longest), batch in batches.items():
            updates = orthogonalise(torch.stack([wide for _, wide in batch]))
            scale = group["lr"] * ADAM_RMS * longest**0.5
            for (p, _), update in zip(batch, updates, strict=True):
                turned = update.mT if p.shape[0] > p.shape[1:].numel() else update
                p.add_(part_of(turned.reshape(p.shape), p), alpha=-scale)

    def _step_adam(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Steps by PyTorch's fused AdamW: these are many small tensors."""
        beta1, beta2 = group["betas"]
        adamw(
            parameters,
            [p.grad for p in parameters if p.grad is not None],
            [self._state(p, "first") for p in parameters],
            [self._state(p, "second") for p in parameters],
            [],
            [self._steps(p) for p in parameters],
            fused=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=1e-8,
            maximize=False,
        )

    def _state(self, p: Tensor, name: str) -> Tensor:
        state = self.state[p]
        if name not in state:
            state[name] = torch.zeros_like(p)
        return state[name]

    def _steps(self, p: Tensor) -> Tensor:
        """Steps so far, in the state, so that checkpoints carry them."""
        state = self.state[p]
        # Not "step", which loading leaves on the CPU.
        if "steps" not in state:
            state["steps"] = torch.zeros((), device=p.device)
        return state["steps"]
