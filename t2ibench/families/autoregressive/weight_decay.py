"""Weights that decay: a rule of each paper's code."""

from __future__ import annotations

from typing import Any, Literal

from torch import nn

Decayed = Literal["all", "linear", "matrices"]
"""Weights that decay: all, those of linear layers, or all of two dimensions and more."""


def decay_groups(module: nn.Module, decays: Decayed) -> list[Any]:
    """Trainable parameters for an optimiser; those that are spared in a group without decay.

    Args:
        module: holds the parameters.
        decays: ``all``: one group; ``linear``: weights of linear layers decay; ``matrices``:
            all parameters of two dimensions and more decay, embeddings too.

    Source: taming-transformers, cond_transformer.py, ``configure_optimizers`` (linear);
        LlamaGen, train_c2i.py, ``creat_optimizer`` (matrices).
    Differs: a trained text encoder follows the same rule.
    """
    trained = [p for p in module.parameters() if p.requires_grad]
    if decays == "all":
        return trained
    linear = {id(m.weight) for m in module.modules() if isinstance(m, nn.Linear)}
    groups: list[dict[str, Any]] = [{"params": []}, {"params": [], "weight_decay": 0.0}]
    for p in trained:
        decayed = id(p) in linear if decays == "linear" else p.ndim >= 2
        groups[0 if decayed else 1]["params"].append(p)
    return [group for group in groups if group["params"]]
