"""Globs of parameters' names in a config, without torch: what they match, and what may be meant where it is nothing."""

import difflib
import math
from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from typing import Any

from sana.config.training.adapter_names import MAGNITUDE, B, adapter_shapes, has_target
from sana.config.training.crepa import PROJECTOR_NAMES
from sana.config.training.method import LoraMethod
from sana.config.training.optimization.optimizer import MuonConfig, ParameterGroup
from sana.config.training.train import TrainConfig
from sana.errors import ConfigError

Shapes = Mapping[str, tuple[int, ...]]  # of the parameters, by name

_LIKELY = 0.6  # similarity of two parts of names
_GLOB = "*?["


def check_parameter_names(config: TrainConfig, shapes: Shapes) -> None:
    """Check that what `train` says of parameters by their names is said of some.

    Raises:
        ConfigError: a glob matches none; names what may be meant.
    """
    learned = learned_shapes(config, shapes)
    beside = PROJECTOR_NAMES if config.crepa is not None else ()
    factors_of(config.parameter_groups, [*learned, *beside])
    if isinstance(config.optimizer, MuonConfig):
        muon_matrices(config.optimizer, learned)


def learned_shapes(config: TrainConfig, shapes: Shapes) -> Shapes:
    """Return the shapes of what learns, by name; `shapes` are the model's parameters'. Raises as `check_...`."""
    named = adapter_shapes(config.method, shapes) if isinstance(config.method, LoraMethod) else shapes
    frozen = frozen_names(config.frozen, named)
    return {name: shape for name, shape in named.items() if name not in frozen}


def names_within(config: TrainConfig, shapes: Shapes) -> TrainConfig:
    """Return a config without those globs that match nothing in a model of fewer blocks, which only costs are taken of.

    Where no target of an adapter is left, it has those of attention.
    """

    def known(glob: str, names: Collection[str]) -> bool:
        return any(fnmatchcase(name, glob) for name in names)

    changed: dict[str, Any] = {}
    named: Shapes = shapes
    if isinstance(method := config.method, LoraMethod):
        targets = tuple(target for target in method.targets if has_target(target, shapes))
        method = method.model_copy(update={"targets": targets or ("self_attention", "cross_attention")})
        changed["method"], named = method, adapter_shapes(method, shapes)
    frozen = tuple(glob for glob in config.frozen if known(glob, named))
    left = [name for name in named if not any(fnmatchcase(name, glob) for glob in frozen)]
    changed["frozen"] = frozen if left else ()
    groups = (group for group in config.parameter_groups if known(group.names, left or named))
    return config.model_copy(update={**changed, "parameter_groups": tuple(groups)})


def frozen_names(globs: Collection[str], names: Collection[str]) -> set[str]:
    """Return the names that one of the globs of `train.frozen` matches.

    Raises:
        ConfigError: a glob matches none, or nothing is left to learn.
    """
    frozen: set[str] = set()
    for index, glob in enumerate(globs):
        matching = {name for name in names if fnmatchcase(name, glob)}
        key = f"train.frozen.{index} is {glob!r}"
        if not matching:
            raise ConfigError(f"{key}, and no parameter has such a name{_hint(glob, names)}")
        frozen |= matching
        if len(frozen) == len(names):
            raise ConfigError(f"{key}, and nothing is left that learns; name fewer parameters")
    return frozen


def learning_rate_factors(config: TrainConfig, names: Collection[str]) -> dict[str, float]:
    """Return the factor on the learning rate of each parameter that has one: of its group, and LoRA+'s of each B.

    Raises:
        ConfigError: as `factors_of`.
    """
    factors = factors_of(config.parameter_groups, names)
    ratio = config.method.lora_plus_ratio if isinstance(config.method, LoraMethod) else 1.0
    if ratio != 1.0:
        factors |= {name: factors.get(name, 1.0) * ratio for name in names if name.endswith(B)}
    return factors


def has_parameter_names(config: TrainConfig) -> bool:
    """Whether a config says anything of parameters by their names."""
    named = bool(config.parameter_groups or config.frozen) or isinstance(config.method, LoraMethod)
    return named or isinstance(config.optimizer, MuonConfig)


def factors_of(groups: Collection[ParameterGroup], names: Collection[str]) -> dict[str, float]:
    """Return the factor on the learning rate of each parameter that a group matches; the first group counts.

    Raises:
        ConfigError: a group matches no parameter that an earlier one has left; lists what names there are.
    """
    factors: dict[str, float] = {}
    for index, group in enumerate(groups):
        matching = [name for name in names if fnmatchcase(name, group.names)]
        new = [name for name in matching if name not in factors]
        if not new:
            key = f"train.parameter_groups.{index}.names is {group.names!r}"
            if matching:
                raise ConfigError(f"{key}, which earlier groups have already; remove it, or put it before them")
            raise ConfigError(f"{key}, and no parameter has such a name{_hint(group.names, names)}")
        factors |= dict.fromkeys(new, group.learning_rate_factor)
    return {name: factor for name, factor in factors.items() if factor != 1.0}


def muon_matrices(config: MuonConfig, shapes: Shapes) -> list[str]:
    """Return the names of the matrices that Muon takes: 1x1 convolutions among them, modulation tables not.

    Raises:
        ConfigError: `matrices` matches none.
    """
    there = [name for name, shape in shapes.items() if _is_matrix(name, shape)]
    chosen = [name for name in there if fnmatchcase(name, config.matrices)]
    if not chosen:
        hint = _hint(config.matrices, there)
        raise ConfigError(f"train.optimizer.matrices is {config.matrices!r}, and no matrix has such a name{hint}")
    return chosen


def _is_matrix(name: str, shape: tuple[int, ...]) -> bool:
    one_by_one = len(shape) >= 2 and math.prod(shape[:2]) == math.prod(shape)
    return one_by_one and not name.endswith(("scale_shift_table", MAGNITUDE))


def _hint(pattern: str, names: Collection[str]) -> str:
    """Say what may be meant by a glob that matches nothing, and how names begin."""
    meant = _nearest(pattern, names)
    beginnings = ", ".join(sorted({_beginning(name) for name in names}))
    return f"; did you mean {meant}? Names begin with {beginnings}" if meant else f"; names begin with {beginnings}"


def _nearest(pattern: str, names: Collection[str]) -> str:
    """Return a glob that matches something and is near, else the nearest name; "" where nothing is."""
    known = {part for name in names for part in name.split(".")}
    mended = ".".join(_known_part(part, known) for part in pattern.split("."))
    for glob in (mended, f"*{mended}", f"{mended}*", f"*{mended}*"):
        if any(fnmatchcase(name, glob) for name in names):
            return glob
    whole = {_without_numbers(name) for name in names}
    return next(iter(difflib.get_close_matches(pattern, sorted(whole), n=1, cutoff=_LIKELY)), "")


def _known_part(part: str, known: Collection[str]) -> str:
    """Return a part between dots as it is, or the known one that it nearly is."""
    if part in known or any(sign in part for sign in _GLOB):
        return part
    return next(iter(difflib.get_close_matches(part, sorted(known), n=1, cutoff=_LIKELY)), part)


def _without_numbers(name: str) -> str:
    return ".".join("*" if part.isdigit() else part for part in name.split("."))


def _beginning(name: str) -> str:
    """Return the beginning of a parameter's name, with `*` for the number of a block: `transformer_blocks.*.attn1`."""
    parts = _without_numbers(".".join(name.split(".")[:-1]) or name).split(".")
    return ".".join(parts[:3] if "*" in parts[:2] else parts[:1])
