"""Golden facts of every model: python tests/golden/models.py writes them anew.

Regenerate only with a reason, and name it in the commit message.
"""

import json
import sys
import tempfile
from pathlib import Path

import torch

from t2ibench.cli.compose import compose_config, config_dir, resolve_conditioning
from t2ibench.cli.pipeline import untrained_module
from t2ibench.core.hashing import hash_json
from t2ibench.data.stream import BatchStream

FILE = Path(__file__).with_name("models.json")
STEPS = 10


def models():
    root = config_dir() / "model"
    return sorted(str(p.relative_to(root).with_suffix("")) for p in root.glob("*/*.yaml"))


def facts(model, cache):
    """Ten losses, the parameter count and the hash of names and shapes."""
    torch.set_num_threads(1)
    cfg = compose_config(
        [
            f"model={model}",
            "data.source.num_train=64",
            "data.source.num_val=8",
            "data.source.num_test=8",
            f"paths.cache={cache}",
        ]
    )
    resolve_conditioning(cfg)
    module, source = untrained_module(cfg)
    optimizers = module.configure_optimizers()
    module.optimizers = lambda: optimizers
    module.manual_backward = lambda loss: loss.backward()
    losses = []
    stream = BatchStream(source.split("train"), batch_size=8, seed=0)
    for step in range(STEPS):
        torch.manual_seed(step)
        losses.append(float(module.training_step(next(stream), step)["loss"]))
    own = {n: list(t.shape) for n, t in module.state_dict().items()}
    trainable = sum(p.numel() for p in module.parameters() if p.requires_grad)
    return {"losses": losses, "trainable_parameters": trainable, "keys": hash_json(own)}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        found = {model: facts(model, folder) for model in models()}
    FILE.write_text(json.dumps(found, indent=2) + "\n")
    sys.stdout.write(f"{FILE} written\n")
