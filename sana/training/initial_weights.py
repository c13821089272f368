"""Starting from the weights, and if asked the optimizer, of an earlier run or of an exported model."""

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from sana.config.training.train import TrainConfig
from sana.errors import SanaError
from sana.model.transformer import DTYPES, empty_transformer, load_transformer, read_transformer
from sana.runtime.specs import InitialWeights, ModelSource
from sana.store import Store
from sana.training.checkpoints.checkpoint import read_checkpoint
from sana.training.checkpoints.checkpoint_io import load, load_weights
from sana.training.guards.skipped_steps import SKIPPED_STEPS
from sana.training.hooks.early_stopping import PREFIX as EARLY_STOPPING
from sana.training.trainables.registry import build_trainable, load_trainable
from sana.training.trainables.trainable import Trainable
from sana.wording import at_rate, first_of

NAMED_TENSORS = 3  # in an error

_log = logging.getLogger(__name__)


class InitialOptimizer(NamedTuple):
    """The optimizer's state of an earlier run, and how many steps it had taken."""

    tensors: Mapping[str, Tensor]
    num_steps: int


def start_trainable(
    store: Store, model: ModelSource, initial: InitialWeights | None, config: TrainConfig, *, resumes: bool
) -> Trainable:
    """Return what learns, as training starts from it, on the CPU; nothing is read to be replaced.

    With `resumes` what learns is no numbers yet: those of the run's own checkpoint come.

    Raises:
        ConfigError: names in the config match no layer.
        SanaError: what it is to start from is gone, damaged, or of other names and shapes.
    """
    began = time.perf_counter()
    if config.method.name == "full":
        trainable = build_trainable(_start_transformer(store, model, initial, config, resumes=resumes), config)
    else:
        trainable = load_trainable(model, config)
        if initial is not None and not resumes:
            needed = {**trainable.parameters, **trainable.fixed}  # what is frozen begins with the earlier run's too
            trainable.load(load_initial_weights(store, initial, needed, read=trainable.read_export))
    size = sum(parameter.nbytes for parameter in trainable.model.parameters())
    _log.info("the weights to start from: loaded %s", at_rate(size, time.perf_counter() - began))
    return trainable


def _start_transformer(
    store: Store, model: ModelSource, initial: InitialWeights | None, config: TrainConfig, *, resumes: bool
) -> Any:
    dtype = DTYPES[config.weights_dtype]
    if resumes:
        return empty_transformer(model.path, revision=model.revision, dtype=dtype)
    if initial is None:
        return load_transformer(model.path, revision=model.revision, dtype=dtype)
    transformer = empty_transformer(model.path, revision=model.revision, dtype=dtype)
    transformer.load_state_dict(load_initial_weights(store, initial, transformer.state_dict()))
    return transformer


def load_initial_weights(
    store: Store,
    initial: InitialWeights,
    needed: Mapping[str, Tensor],
    *,
    read: Callable[[Path], Mapping[str, Tensor]] = read_transformer,
) -> dict[str, Tensor]:
    """Return the weights to start from, on the CPU; `read` reads those of an export in a folder.

    Raises:
        SanaError: they are gone, damaged, or not of the names and shapes that are `needed`; names the tensors.
    """
    if initial.checkpoint is None:
        assert initial.path is not None
        found = dict(read(Path(initial.path)))
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
    found = {key: tensor for key, tensor in found.items() if not key.startswith(EARLY_STOPPING)}
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
