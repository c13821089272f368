"""What `train.init_from` names: the checkpoint of an earlier run in the root, or a model in a local folder."""

import re
from pathlib import Path
from typing import NamedTuple

from sana.artifact import Artifact, digest_of
from sana.config.places import at_home
from sana.context import Context
from sana.data.sources.digest_cache import DigestCache
from sana.errors import ConfigError, SanaError
from sana.facts import TrainFacts
from sana.model.model_resolver import component_digest
from sana.runtime.specs import CheckpointName, InitialWeights
from sana.training.checkpoints.checkpoint import checkpoint_steps

ADAPTER_FILE = "pytorch_lora_weights.safetensors"  # diffusers' name, as training exports it
_NAMED = re.compile(r"([0-9a-f]{16}(?:-[0-9a-z]+)?)(?:@(\d+))?")


class Named(NamedTuple):
    """What a config names: what a worker loads, and the digest that stands for it in fingerprints."""

    weights: InitialWeights
    digest: str


def find_initial_weights(context: Context) -> Named | None:
    """Return what `train.init_from` names; None: it is unset. A checkpoint need not be there any more.

    Raises:
        ConfigError: there is no such run, or the folder holds no transformer.
    """
    config = context.config.train
    if config.init_from is None:
        return None
    match = _NAMED.fullmatch(config.init_from)
    if match is None:
        if config.init_weights != "ema":
            raise ConfigError(
                f"train.init_from {config.init_from} is a folder, not the FINGERPRINT[@STEP] of a training, so it has "
                "one set of weights and no optimizer; leave out train.init_weights and train.init_optimizer"
            )
        folder = at_home(config.init_from).absolute()
        digest = _folder_digest(context, folder)
        return Named(InitialWeights(None, str(folder), config.init_weights, optimizer=False), digest)
    _check_method(context, match[1])
    checkpoint = _checkpoint(context, match[1], int(match[2]) if match[2] else None)
    # a trajectory and a step determine the bytes, however many ranks wrote them
    digest = digest_of(["checkpoint", checkpoint.trajectory, checkpoint.step])
    return Named(InitialWeights(checkpoint, None, config.init_weights, config.init_optimizer), digest)


def _folder_digest(context: Context, folder: Path) -> str:
    """Return the digest of what training would start from of a folder. Raises ConfigError: it holds no such thing."""
    is_adapter, path = (folder / ADAPTER_FILE).is_file(), folder / ADAPTER_FILE
    key = f"train.init_from {context.config.train.init_from}"
    if context.config.train.method.name == "full":
        if is_adapter and not (folder / "transformer" / "config.json").is_file():
            raise ConfigError(
                f"{key} holds an adapter, {ADAPTER_FILE}, and with train.method full all weights learn; merge it into "
                "its model first (sana lora merge) and name that, or set train.method to lora"
            )
        return component_digest(folder, "transformer", work_dir=context.work_dir, read_only=context.read_only)
    if not is_adapter:
        raise ConfigError(
            f"{key} holds no {ADAPTER_FILE}: with train.method {context.config.train.method.name} a run begins with "
            "an adapter; to train one beside other weights set model.path to their folder"
        )
    digests = DigestCache(
        context.work_dir / "cache" / "blake2b.sqlite", algorithm="blake2b", read_only=context.read_only
    )
    try:
        return digest_of(["adapter", digests.digest(path)])
    except OSError as error:
        raise SanaError(f"{path} cannot be read: {error}") from error


def _check_method(context: Context, name: str) -> None:
    """Require that a finished run trained what this one is to train; of an unfinished one its tensors tell."""
    store, key, now = context.store, f"train/{name}/artifact.json", context.config.train.method.name
    if not store.exists(key):
        return
    settings = Artifact.from_json(store.read(key), where=store.uri(key)).config.get("method")
    then = settings.get("name", "full") if isinstance(settings, dict) else "full"
    if then == now:
        return
    if now == "full":
        nearest = "merge its adapter into its model (sana lora merge) and name that folder"
    else:
        nearest = "to train an adapter beside its weights, `sana export-model` it, and set model.path to that folder"
    raise ConfigError(
        f"train.init_from {name} is a training of method {then}, and train.method is {now}: they learn other tensors; "
        f"{nearest}"
    )


def check_is_there(context: Context, named: Named) -> None:
    """Require that the checkpoint that a run is to start from exists. Raises ConfigError with those that do."""
    checkpoint = named.weights.checkpoint
    if checkpoint is None:
        return
    steps = checkpoint_steps(context.store, checkpoint.trajectory)
    if checkpoint.step not in steps:
        raise ConfigError(
            f"train.init_from {context.config.train.init_from}: {context.store.root} has no checkpoint of step "
            f"{checkpoint.step} of that run, but of {', '.join(map(str, steps)) or 'none'}; write one of them as "
            "FINGERPRINT@STEP"
        )


def _checkpoint(context: Context, name: str, step: int | None) -> CheckpointName:
    """Return the checkpoint that a fingerprint of a finished run names, or the trajectory of an unfinished one."""
    store, key = context.store, f"train/{name}/artifact.json"
    if store.exists(key):
        trained = TrainFacts.of(Artifact.from_json(store.read(key), where=store.uri(key)))
        return CheckpointName(trained.trajectory, trained.step if step is None else step)
    steps = checkpoint_steps(store, name)
    if not steps and step is None:
        raise ConfigError(
            f"train.init_from {name}: {store.root} has no training of that fingerprint; `sana plan` of its config "
            "names it, and a folder is named by its path, such as ./model"
        )
    return CheckpointName(name, steps[-1] if step is None else step)
