"""Starting from the weights, and if asked the optimizer, of an earlier run or of an exported model."""

import logging
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sana.errors import SanaError
from sana.model.transformer import empty_transformer, load_transformer
from sana.runtime.specs import InitialWeights, ModelSource
from sana.store import Store
from sana.training.checkpoints.checkpoint import read_checkpoint
from sana.training.checkpoints.checkpoint_io import load, load_weights
from sana.training.guards.skipped_steps import SKIPPED_STEPS
from sana.wording import at_rate, first_of

NAMED_TENSORS = 3  # in an error

_log = logging.getLogger(__name__)


class InitialOptimizer(NamedTuple):
    """The optimizer's state of an earlier run, and how many steps it had taken."""

    tensors: Mapping[str, Tensor]
    num_steps: int


def start_transformer(
    store: Store, model: ModelSource, initial: InitialWeights | None, *, dtype: torch.dtype, resumes: bool
) -> Any:
    """Return the SanaVideoTransformer3DModel that training starts from, on the CPU; nothing is read to be replaced.

    With `resumes` its weights are no numbers yet: those of the run's own checkpoint come. Raises as
    `load_initial_weights` does.
    """
    began = time.perf_counter()
    if resumes:
        return empty_transformer(model.path, revision=model.revision, dtype=dtype)
    if initial is None:
        transformer = load_transformer(model.path, revision=model.revision, dtype=dtype)
    else:
        transformer = empty_transformer(model.path, revision=model.revision, dtype=dtype)
        transformer.load_state_dict(load_initial_weights(store, initial, transformer.state_dict()))
    size = sum(parameter.nbytes for parameter in transformer.parameters())
    _log.info("the weights to start from: loaded %s", at_rate(size, time.perf_counter() - began))
    return transformer


def load_initial_weights(store: Store, initial: InitialWeights, needed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights to start from, on the CPU.

    Raises:
        SanaError: they are gone, damaged, or not of the names and shapes that are `needed`; names the tensors.
    """
    if initial.checkpoint is None:
        assert initial.path is not None
        found = dict(load_transformer(initial.path).state_dict())
        where = initial.path
    else:
        checkpoint = initial.checkpoint
        found = load_weights(store, checkpoint.trajectory, checkpoint.step, which=initial.which)
        where = f"step {checkpoint.step} of {checkpoint.trajectory}"
    check_same(found, needed, where=where)
    return found


def load_initial_optimizer(store: Store, initial: InitialWeights, needed: Mapping[str, Tensor]) -> InitialOptimizer:
    """Return the optimizer's state to start from, on the CPU. Raises as `load_initial_weights` does."""
    assert initial.checkpoint is not None  # the config was checked
    name = initial.checkpoint
    checkpoint = read_checkpoint(store, name.trajectory, name.step)
    found = load(store, checkpoint, "optimizer")
    skipped = found.pop(SKIPPED_STEPS, None)
    check_same(found, needed, where=f"the optimizer of step {name.step} of {name.trajectory}")
    rounded = {f"{found[key].dtype} to {needed[key].dtype}" for key in found if _is_rounded(found, needed, key)}
    if rounded:
        _log.warning("train.init_optimizer: the state of that run is rounded, %s", ", ".join(sorted(rounded)))
    steps = checkpoint.step + checkpoint.optimizer_steps_before
    return InitialOptimizer(found, steps - (int(skipped) if skipped is not None else 0))


def _is_rounded(found: Mapping[str, Tensor], needed: Mapping[str, Tensor], name: str) -> bool:
    return needed[name].dtype.itemsize < found[name].dtype.itemsize


def check_same(found: Mapping[str, Tensor], needed: Mapping[str, Tensor], *, where: str) -> None:
    """Require tensors of these names and shapes. Raises SanaError: names the first that differ."""
    differences = [
        f"{name} {_shape(found.get(name))}, needed {_shape(needed.get(name))}"
        for name in sorted({*found, *needed})
        if _shape(found.get(name)) != _shape(needed.get(name))
    ]
    if differences:
        raise SanaError(
            f"train.init_from: {where} does not fit model.path and train.optimizer: "
            f"{first_of(differences[:NAMED_TENSORS], len(differences))}; name a run of the same model and optimizer"
        )


def _shape(tensor: Tensor | None) -> str:
    return "none" if tensor is None else str(list(tensor.shape))
