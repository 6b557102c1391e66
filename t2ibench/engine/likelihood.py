"""Bits a dimension of real images given their captions, for families with a likelihood."""

from __future__ import annotations

import torch

from t2ibench.core.pixels import from_pixels
from t2ibench.core.types import Batch
from t2ibench.engine.load import LoadedRun
from t2ibench.evaluation.measures import Evaluation
from t2ibench.evaluation.protocol import Protocol
from t2ibench.evaluation.results import Scores
from t2ibench.families.contract import Likelihood

METRIC = "bits_per_dim"


def likelihood_scores(loaded: LoadedRun, protocol: Protocol) -> Scores:
    """Mean bits a dimension over the protocol's real images; empty without a likelihood.

    The key names what is modelled: pixels, or the codes or latents of one first stage, whose bits
    are comparable only among models of that same stage; and whether the value is exact or an
    upper bound.
    """
    module, split = loaded.module, loaded.source.split(protocol.split)
    prompts = protocol.prompts(split)
    size, bits, first = loaded.spec.protocol.batch_size, [], None
    for start in range(0, len(prompts), size):
        rows = slice(start, start + size)
        batch = Batch(
            from_pixels(split.pixels(prompts.indices[rows])),
            list(prompts.captions[rows]),
            torch.tensor(prompts.indices[rows]),
        )
        with torch.no_grad():
            found = module.likelihood(batch.to(loaded.context.device))
        if found is None:
            return {}
        first = found
        bits.append(found.bits_per_dimension.double().cpu())
    assert first is not None, "a protocol has prompts"
    evaluation = Evaluation()
    values = torch.cat(bits).numpy()
    evaluation.add_mean(likelihood_key(loaded, first, protocol), values, prompts.keys)
    return evaluation.scores


def likelihood_key(loaded: LoadedRun, found: Likelihood, protocol: Protocol) -> str:
    """Key of the score, such as ``bits_per_dim[codes of 1a2b3c4d|exact|shapes/test:…|500]``."""
    split = loaded.source.split(protocol.split)
    target = loaded.module.targets().get(found.of)
    of = found.of if target is None else f"{found.of} of {target.fingerprint[:8]}"
    kind = "bound" if found.bound else "exact"
    where = f"{split.name}:{split.fingerprint[:8]}"
    return f"{METRIC}[{of}|{kind}|{where}|{protocol.num_images}]"
