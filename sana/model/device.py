"""Which device a worker computes on, and what is written down about it."""

from importlib.metadata import version

import torch


def resolve_device(name: str, *, rank: int = 0) -> torch.device:
    """Return the device called `name`; `auto` is a GPU if there is one, else the CPU.

    Of several processes of this machine each has a `rank`, by which `auto` and `cuda` share out its GPUs.

    Raises:
        RuntimeError: the device does not exist here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and torch.cuda.device_count() > 1:
        name = f"cuda:{rank % torch.cuda.device_count()}"
    return torch.empty(0, device=name).device


def made_by(device: torch.device) -> str:
    """Return the device and versions that bytes were made with: recorded per sample, not part of any key."""
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    versions = [f"{name} {version(name)}" for name in ("diffusers", "transformers")]  # importing them takes seconds
    return "; ".join([where, f"torch {torch.__version__}", *versions])
