"""Text-to-image generator families compared under one protocol.

From Python there is what the command line has, imported when it is first used:

    run = t2ibench.load("runs/X")            a trained run
    run.generate(["a red ring"], seed=0)     images for prompts
    run.edit("img2img", …)                   edits
    t2ibench.train("debug=smoke")            trains and scores, or finds it done
    t2ibench.score(images, prompts)          scores of anybody's images
    t2ibench.compare("runs/A", "runs/B")     leaderboard and tests
    t2ibench.report("runs/A", out=…)         one HTML page

What a family, an encoder or a data set of one's own needs is ``TextToImageModule``, ``Knob``,
``Noise``, ``Batch``, ``TextFeatures``, ``TextEncoder``, ``DataSource`` and ``PreparedSplit``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

PUBLIC = {
    "load": "t2ibench.api",
    "train": "t2ibench.api",
    "score": "t2ibench.api",
    "compare": "t2ibench.api",
    "report": "t2ibench.api",
    "Generator": "t2ibench.engine.generator",
    "Pictures": "t2ibench.engine.generator",
    "RunScores": "t2ibench.evaluation.results",
    "T2IBenchError": "t2ibench.core.errors",
    "TextToImageModule": "t2ibench.families.contract",
    "Target": "t2ibench.families.contract",
    "Likelihood": "t2ibench.families.contract",
    "Knob": "t2ibench.core.knobs",
    "Noise": "t2ibench.core.noise",
    "SeededNoise": "t2ibench.core.noise",
    "Batch": "t2ibench.core.types",
    "TextFeatures": "t2ibench.core.types",
    "TextEncoder": "t2ibench.text.contract",
    "DataSource": "t2ibench.data.records",
    "PreparedSplit": "t2ibench.data.records",
    "Record": "t2ibench.data.records",
    "FeatureExtractor": "t2ibench.metrics.extractors.contract",
}
"""Public names and the modules that define them; a module is imported at a name's first use."""

__all__ = ["__version__", *PUBLIC]

if TYPE_CHECKING:
    from t2ibench.core.errors import T2IBenchError as T2IBenchError


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module t2ibench has no attribute {name!r}")
    value = getattr(import_module(PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
