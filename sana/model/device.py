"""The device that a worker computes on, and its provenance."""

from importlib.metadata import version

import torch

from sana.errors import ConfigError


def resolve_device(name: str, *, rank: int = 0) -> torch.device:
    """Return the device called `name`; `auto` is a GPU if there is one, else the CPU.

    Each of several processes of this machine has a `rank`, by which `auto` and `cuda` distribute its GPUs.

    Raises:
        ConfigError: there is no such GPU here.
    """
    num_gpus = torch.cuda.device_count()
    if name == "auto":
        name = "cuda" if num_gpus else "cpu"
    if name.startswith("cuda") and int(name.partition(":")[2] or 0) >= num_gpus:
        raise ConfigError(
            f"device {name} is not here: torch {torch.__version__} sees {num_gpus} GPUs; set the `resources.device` of "
            "this stage to auto or cpu, or install a build of torch and a driver that see the GPU"
        )
    if name == "cuda" and num_gpus > 1:
        name = f"cuda:{rank % num_gpus}"
    return torch.empty(0, device=name).device


def provenance(device: torch.device, precision: str, how: str = "") -> str:
    """Return device, precision (and `how`) and versions that bytes were made with: per sample, in no key."""
    if precision == "tf32" and device.type == "cpu":
        precision = "fp32"  # what a CPU computes in then
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    versions = [f"{name} {version(name)}" for name in ("diffusers", "transformers")]  # importing them takes seconds
    return "; ".join([where, precision + how, f"torch {torch.__version__}", *versions])
