"""Small token transformers with weights by a formula, for logits of the authors' code.

The numbers in ``golden/token_transformers.json`` are logits of the released code, single
precision, on a network of the same layout whose weights were copied from ours: parameter k of
``named_parameters`` has the values SCALE sin(0.7 i + k) over its flattened index i, gains of
norms 1 more. Inputs are by formulas too; nothing is drawn.
"""

import json
from pathlib import Path

import torch

from t2ibench.core.types import TextFeatures

FILE = Path(__file__).parents[1] / "golden" / "token_transformers.json"
CODES, LENGTH, TEXT_WIDTH, TEXT_LENGTH = 7, 16, 6, 5
SCALE = 0.3
COMMON = {
    "codebook_size": CODES, "length": LENGTH, "text_width": TEXT_WIDTH, "text_length": TEXT_LENGTH,
    "width": 16, "depth": 2, "heads": 2,
}  # fmt: skip


@torch.no_grad()
def filled(network):
    """The network in eval mode with weights by the formula."""
    for k, (name, parameter) in enumerate(network.named_parameters()):
        wave = SCALE * torch.sin(0.7 * torch.arange(parameter.numel(), dtype=torch.float64) + k)
        gain = 1 if "norm" in name and name.endswith("weight") else 0
        parameter.copy_((wave + gain).reshape(parameter.shape))
    return network.eval()


def codes_by_formula():
    """Two rows of codes, (2, LENGTH)."""
    return (torch.arange(2 * LENGTH) ** 2 // 3 % CODES).reshape(2, LENGTH)


def text_by_formula(lengths=(TEXT_LENGTH, TEXT_LENGTH)):
    """Features of two captions of so many tokens each, padded at the end with zeros."""
    values = torch.cos(torch.arange(2.0 * TEXT_LENGTH * TEXT_WIDTH) * 0.9)
    tokens = values.reshape(2, TEXT_LENGTH, TEXT_WIDTH)
    mask = torch.arange(TEXT_LENGTH) < torch.tensor(lengths)[:, None]
    return TextFeatures(tokens * mask.unsqueeze(-1), mask, tokens[:, 0])


def published(name):
    """Logits of the released code by the name of the case."""
    return torch.tensor(json.loads(FILE.read_text())[name])
