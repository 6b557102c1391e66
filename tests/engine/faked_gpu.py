"""A GPU that is not there: torch is told of one, its tensors stay on the CPU, moves are recorded.

Inside, every call with a ``cuda`` device is made on the CPU, and each module remembers the device
that it was last moved to. A module with weights that runs forward on another is noted.
"""

from contextlib import contextmanager, nullcontext

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

GPU = torch.device("cuda", 0)
TAG = "_moved_to"


def is_gpu(value):
    """Whether an argument is the faked device."""
    if isinstance(value, torch.device):
        return value.type == "cuda"
    return isinstance(value, str) and value.startswith("cuda")


class OnTheCpu(TorchFunctionMode):
    """Calls that name the faked device, made on the CPU."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.device:
            return function(*args, **(kwargs or {}))
        args = [torch.device("cpu") if is_gpu(a) else a for a in args]
        kwargs = {k: torch.device("cpu") if is_gpu(v) else v for k, v in (kwargs or {}).items()}
        return function(*args, **kwargs)


class FakedGpu:
    """What ran where.

    Attributes:
        ran: classes of modules with weights of their own that ran forward on the GPU.
        elsewhere: those that ran somewhere else.
    """

    def __init__(self):
        self.ran, self.elsewhere = set(), set()
        self.moving = None

    def note(self, module, inputs):
        """Notes where a module runs."""
        if next(module.parameters(recurse=False), None) is None:
            return
        there = is_gpu(module.__dict__.get(TAG))
        (self.ran if there else self.elsewhere).add(type(module).__name__)


@contextmanager
def faked_gpu(monkeypatch):
    """One GPU, faked, inside; yields what ran where."""
    faked, move, apply = FakedGpu(), nn.Module.to, nn.Module._apply

    def to(module, *args, **kwargs):
        named = [a for a in (*args, *kwargs.values()) if isinstance(a, (str, torch.device))]
        named += [a.device for a in args if isinstance(a, torch.Tensor)]
        before, faked.moving = faked.moving, torch.device(named[0]) if named else None
        try:
            return move(module, *args, **kwargs)
        finally:
            faked.moving = before

    def applied(module, function, recurse=True):
        if faked.moving is not None:
            module.__dict__[TAG] = faked.moving
        return apply(module, function, recurse)

    with monkeypatch.context() as patch:
        for name, value in {
            "is_available": True,
            "device_count": 1,
            "current_device": 0,
            "get_device_name": "faked",
            "synchronize": None,
            "reset_peak_memory_stats": None,
            "max_memory_allocated": 0,
        }.items():
            patch.setattr(torch.cuda, name, lambda *_, value=value, **__: value)
        for name in ("_accelerator", "_cuda"):  # newer and older releases
            check = f"{name}_graph_capture_health_check"
            patch.setattr(torch.optim.Optimizer, check, lambda self: None, raising=False)
        patch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
        patch.setattr(nn.Module, "to", to)
        patch.setattr(nn.Module, "_apply", applied)
        hook = nn.modules.module.register_module_forward_pre_hook(faked.note)
        try:
            with OnTheCpu():
                yield faked
        finally:
            hook.remove()
