"""The device that a worker computes on, its provenance, compiled code for it, and memory that it does not have."""

import gc
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import torch

from sana.errors import ConfigError, SanaError

_COMPILE_CACHE = "TORCHINDUCTOR_CACHE_DIR"
_NOT_ENOUGH = ("can't allocate memory", "not enough memory", "out of memory")  # as allocators of a CPU and a GPU say


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


def free_memory() -> None:
    """Give a GPU's memory that nothing of this process needs any more back, for another process."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an allocator raised this, of a GPU or of a CPU."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(t in text for t in _NOT_ENOUGH))


@contextmanager
def out_of_memory_explained(settings: str) -> Iterator[None]:
    """Turn what an allocator raises into a SanaError that names the settings with which less memory is needed."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise SanaError(f"there is not enough memory ({line}); less is needed with {settings}") from error


def use_compile_cache(folder: Path) -> None:
    """Keep compiled code in a folder. Before the first compilation; a folder that a user has named already is left.

    torch writes its own into the environment as soon as its compiler is imported: torchinductor_USER, a temporary one.
    """
    named = Path(os.environ.get(_COMPILE_CACHE, ""))
    is_torchs = named.parent == Path(tempfile.gettempdir()) and named.name.startswith("torchinductor_")
    if not os.environ.get(_COMPILE_CACHE) or is_torchs:
        os.environ[_COMPILE_CACHE] = str(folder.absolute())
