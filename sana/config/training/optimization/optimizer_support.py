"""Where each optimizer holds: data, for errors when a config is loaded and for the table in docs/optimizers.md."""

import functools
import importlib.metadata
import re
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError

from sana.errors import ConfigError

version = functools.cache(importlib.metadata.version)  # it reads a file, at each load of a config
EXTRA = "pip install -e '.[optimizers]'"


@dataclass(frozen=True)
class Support:
    """Where an optimizer holds: bit-equal resume, and the same numbers on every rank."""

    package: str  # that it is from
    at_least: tuple[int, int]  # version of that package
    why_not_fsdp2: str = ""  # sharded, each rank has its part of every tensor; why it does not hold then, if so
    ddp: bool = True  # data parallelism: the whole state on every rank
    compile: bool = True  # beside a compiled model
    bf16_weights: bool = False  # rounds so that small steps add up
    factors: bool = True  # a learning rate per group of parameters
    fused_backward: bool = True  # the step of a parameter depends on no other one
    offload: bool = True  # weights partly in the host's memory: it steps on two devices
    state_bytes: str = ""  # of a weight of the published model, beside the weight

    @property
    def fsdp2(self) -> bool:
        """Whether it holds sharded."""
        return not self.why_not_fsdp2


_CUT_BLOCKS = "its blocks of 256 numbers, which share a scale, would be cut otherwise on each number of ranks"
_SUMS = "its library adds up numbers of all weights, of which a rank has a part"

SUPPORT = {
    "adamw": Support("torch", (2, 6), state_bytes="8"),
    "adafactor": Support("torch", (2, 6), state_bytes="4.3, kernels as matrices 0.005"),
    "adamw_bf16": Support("torch", (2, 6), bf16_weights=True, state_bytes="4"),
    "optimi_adamw": Support("torch-optimi", (0, 3), bf16_weights=True, state_bytes="8, with bf16 weights 6"),
    "adamw_8bit": Support("torchao", (0, 18), _CUT_BLOCKS, bf16_weights=True, fused_backward=False, state_bytes="2"),
    "muon": Support("torch", (2, 9), fused_backward=False, state_bytes="4.7"),
    "prodigy": Support(
        "pytorch_optimizer", (4, 1), _SUMS, factors=False, fused_backward=False, offload=False, state_bytes="16"
    ),
    "came": Support("pytorch_optimizer", (4, 1), state_bytes="12.6"),
}


def check_package(name: str) -> None:
    """Check that the package of the optimizer `name` is installed.

    Raises:
        ConfigError: it is not, or too old; says what to install.
    """
    support = SUPPORT[name]
    require_package(f"train.optimizer.name: {name}", support.package, support.at_least, otherwise="use adamw")


def require_package(setting: str, package: str, needed: tuple[int, int], *, otherwise: str) -> None:
    """Require a package that a setting needs, at this version or a newer one.

    Raises:
        ConfigError: it is not installed, or too old; says what to install, or what to do `otherwise`.
    """
    wanted = f"{setting} needs {package} {needed[0]}.{needed[1]} or newer"
    install = EXTRA if package != "torch" else f"pip install 'torch>={needed[0]}.{needed[1]}'"
    try:
        found = version(package)
    except PackageNotFoundError as error:
        raise ConfigError(f"{wanted}, which is not installed: {install}; or {otherwise}") from error
    if tuple(int(part) for part in re.findall(r"\d+", found)[:2]) < needed:
        raise ConfigError(f"{wanted}, and {found} is installed: {install}; or {otherwise}")


def names_with(feature: str) -> str:
    """Return the names of the optimizers that hold with a feature, a name of a field of `Support`."""
    return ", ".join(name for name, support in SUPPORT.items() if getattr(support, feature))
