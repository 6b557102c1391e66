"""Golden facts of every model: PYTHONPATH=tests python -m golden.models writes them anew.

Regenerate only with a reason, and name it in the commit message.

They are facts of one step that is not taken: what later steps make of the last bits of the first
is another on another CPU. Weights are moved off their initial values, where layers that begin at
zero would hide most of a network.
"""

import json
import math
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from contract.models import MODELS, Case, stirred

from t2ibench.core.hashing import hash_json
from t2ibench.data.stream import BatchStream

FILE = Path(__file__).with_name("models.json")
BATCH = 32


def facts(model, cache, *extra):
    """The first step's losses and gradient norm, the parameters' number, initial norm and names."""
    torch.set_num_threads(1)
    case = Case(model, None, cache, *extra)
    module = case.module()
    trained = [p for p in module.parameters() if p.requires_grad]
    initial = norm([trained])
    optimizers = stirred(module).configure_optimizers()
    targets, gradients = module.targets(), []

    def watched(optimizer, loss, parameters):
        """In place of a step."""
        optimizer.zero_grad(set_to_none=True)
        for part in [loss] if isinstance(loss, torch.Tensor) else loss:
            part.backward()
        stepped = [p for group in optimizer.param_groups for p in group["params"]]
        gradients.append([p.grad for p in stepped if p.grad is not None])
        return module.gradient_norm(stepped)

    module.optimizers, module.optimise = lambda: optimizers, watched
    batch = next(BatchStream(case.source.split("train"), batch_size=BATCH, seed=0))
    torch.manual_seed(0)
    made = {name: exact(target.make(batch.image), module) for name, target in targets.items()}
    losses = module.training_step(replace(batch, targets=made), 0)
    own = {n: list(t.shape) for n, t in module.state_dict().items()}
    return {
        "losses": {name: float(value) for name, value in losses.items()},
        "gradient_norm": norm(gradients),
        "initial_norm": initial,
        "trainable_parameters": sum(p.numel() for p in trained),
        "keys": hash_json(own),
    }


def exact(target, module):
    """A target, or codes that no rounding changes in place of those that lie nearest."""
    if target.is_floating_point():
        return target
    return torch.randint_like(target, module.first_stage.codebook_size)


def norm(groups):
    """The Euclidean norm of all tensors together."""
    tensors = [tensor for group in groups for tensor in group]
    return math.sqrt(sum(float(t.detach().double().square().sum()) for t in tensors))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        found = {model: facts(model, folder) for model in MODELS}
    FILE.write_text(json.dumps(found, indent=2) + "\n")
    sys.stdout.write(f"{FILE} written\n")
