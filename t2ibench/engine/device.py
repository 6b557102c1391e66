"""The device of a process: chosen once, by one rule, and handed down.

On an accelerator, training is bf16-mixed (float32 master weights and losses), everything else
float32 with TensorFloat-32 matrix products; on a CPU everything is float32. ``facts`` records in
a run's manifest what was used.
"""

from __future__ import annotations

from typing import Any

import torch

from t2ibench.core.errors import ConfigError

ACCELERATORS = ("auto", "cpu", "gpu", "cuda")


def chosen_device(accelerator: str, devices: int = 1) -> torch.device:
    """Device of this process: the accelerator that is configured, or the CPU.

    Args:
        accelerator: ``trainer.accelerator``.
        devices: ``trainer.devices``.

    Raises:
        ConfigError: an unknown accelerator, or fewer GPUs here than configured.
    """
    if accelerator not in ACCELERATORS:
        raise ConfigError(
            f"trainer.accelerator={accelerator} is unknown; choose {', '.join(ACCELERATORS)}."
        )
    if accelerator in ("gpu", "cuda"):
        seen = torch.cuda.device_count()
        if seen < devices:
            raise ConfigError(
                f"trainer.accelerator={accelerator} with trainer.devices={devices} needs as many "
                f"GPUs, and this process sees {seen}; ask the scheduler for them, or choose "
                "trainer=cpu."
            )
    if accelerator == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def training_precision(precision: str, device: torch.device) -> str:
    """Lightning's precision, with ``auto`` resolved: bf16-mixed on an accelerator, else 32-true."""
    if precision != "auto":
        return precision
    return "32-true" if device.type == "cpu" else "bf16-mixed"


def prepare_device(device: torch.device) -> None:
    """Sets the precision of float32 matrix products for this process."""
    torch.set_float32_matmul_precision("highest" if device.type == "cpu" else "high")


def facts(device: torch.device, precision: str) -> dict[str, Any]:
    """Device and precision of a run, for its manifest."""
    return {
        "device": str(device) if device.type == "cpu" else torch.cuda.get_device_name(device),
        "training_precision": training_precision(precision, device),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
    }
