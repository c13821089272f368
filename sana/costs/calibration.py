"""What `sana calibrate` measured on a machine, as a record under work_dir, and how it is found again.

It holds for one device and version of torch, one model's sizes, one bucket and the settings that change speed or
memory: any other has a record of its own.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sana.artifact import digest_of
from sana.atomic_io import atomic_write
from sana.bucket import Bucket
from sana.config.pipeline import Config
from sana.config.training.offload import GroupOffload
from sana.config.training.train import TrainConfig
from sana.costs.machine import Machine, this_machine
from sana.costs.transformer import TransformerSizes
from sana.record import Record

FOLDER = "calibration"  # under work_dir
_REPAIR = "remove it, and run `sana calibrate CONFIG` again"


@dataclass(frozen=True)
class Trial(Record):
    """One setting that was tried: steps of the trainer, on random weights. A first step allocates and compiles."""

    num_layers: int  # two, or those of the model
    micro_batch_size: int
    kept: float  # share of the activations that was kept; the rest was computed again
    fits: bool
    samples_per_step: int
    first_step_s: float = 0.0
    step_s: float = 0.0
    peak_bytes: int = 0

    @property
    def sample_s(self) -> float:
        """Seconds of training per sample."""
        return self.step_s / self.samples_per_step


@dataclass(frozen=True)
class Rate(Record):
    """Seconds of one item, and the peak memory; `fits` False where there was not enough."""

    seconds: float
    peak_bytes: int
    fits: bool = True


@dataclass(frozen=True)
class Calibration(Record):
    """All that was measured. `forward` is one sample at one noise level; encode, decode and captions are one item."""

    machine: Machine
    capacity_bytes: int  # what a setting had to fit into
    model: str  # digest of the config files
    transformer: str  # digest of the transformer's sizes
    settings: Mapping[str, str]
    bucket: str
    caption_tokens: int
    trials: tuple[Trial, ...]
    chosen: Trial | None  # of the whole model; None: nothing fitted
    forward: Rate | None
    encode: Rate | None
    decode: Rate | None
    captions: Rate | None
    seconds: float  # that it took

    def whole_model(self, num_layers: int) -> list[Trial]:
        """Return the trials of the whole model."""
        return [trial for trial in self.trials if trial.num_layers == num_layers]


def calibrated_settings(config: Config) -> dict[str, str]:
    """Return the settings, but for those that calibration chooses, which change speed or memory."""
    latents, captions = config.encode_latents, config.encode_captions
    return {
        "train": _of_training(config.with_any_conditions.train),
        "sample": f"{config.sample.vae_precision}{', tiling' if config.sample.vae_tiling else ''}",
        "encode_latents": f"{latents.vae_precision}{', tiling' if latents.tiling else ''}",
        "encode_captions": f"{captions.dtype}, batch {captions.batch_size}, {captions.padding}, {captions.template}, "
        f"{captions.max_tokens} tokens",
    }


def is_sharded(train: TrainConfig) -> bool:
    """Whether each rank holds a part of the state."""
    return train.resources.sharding != "none" and train.resources.num_processes > 1


def _of_training(train: TrainConfig) -> str:
    # a rank that holds a part of the state is not what is measured
    sharded = ", sharded" if is_sharded(train) else ""
    text = f"{train.mixed_precision}, {train.weights_dtype} weights, {train.optimizer.name}, "
    text += f"EMA {train.resources.ema_device}{', may skip' if train.max_skipped_steps else ''}{sharded}"
    text += ", timesteps by token" if train.conditions else ""
    text += ", fused_backward" if train.resources.fused_backward else ""
    if train.method.name != "full" or train.frozen:
        text += f", {train.method.hashed()}, frozen {list(train.frozen)}, base {train.base_weights}"
    text += ", CREPA" if train.crepa is not None else ""
    return f"{text}, compile {train.resources.compile}{_of_offload(train.resources.offload)}"


def _of_offload(offload: GroupOffload) -> str:
    if not offload.is_on:
        return ""
    return f", offload by {offload.blocks_per_group}{' ahead' if offload.use_stream else ''}"


def calibration_path(
    work_dir: Path, machine: Machine, model_digest: str, settings: Mapping[str, str], bucket: str
) -> Path:
    """Return the file of a calibration."""
    key = digest_of([machine.device, machine.torch, model_digest, dict(settings), bucket])
    return work_dir / FOLDER / f"{key[:16]}.json"


def save_calibration(calibration: Calibration, work_dir: Path) -> Path:
    """Write it where `find_calibration` looks, and return the path."""
    path = calibration_path(work_dir, calibration.machine, calibration.model, calibration.settings, calibration.bucket)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temp:
        temp.write_bytes(calibration.to_json())
    return path


def find_calibration(config: Config, model_configs: Mapping[str, Mapping[str, Any]], bucket: str) -> Calibration | None:
    """Return what was measured on this machine for this model, bucket and settings; None: never.

    Raises:
        SanaError: the record is damaged, or of another version.
    """
    machine = this_machine(config.train.resources.device)
    path = calibration_path(
        Path(config.work_dir).absolute(), machine, configs_digest(model_configs), calibrated_settings(config), bucket
    )
    if not path.exists():
        return None
    return Calibration.load(path, repair_hint=_REPAIR)


def configs_digest(model_configs: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a digest of a model's config files, equal for equal values."""
    return digest_of(json.loads(json.dumps({name: dict(found) for name, found in model_configs.items()})))


def sizes_digest(sizes: TransformerSizes) -> str:
    """Return a digest of what of a transformer decides its costs."""
    return digest_of({name: str(value) for name, value in asdict(sizes).items()})


def measured_activations(
    config: TrainConfig, sizes: TransformerSizes, buckets: Iterable[Bucket], *, work_dir: Path
) -> float | None:
    """Return the share of activations that `sana calibrate` measured to fit and be fastest; None: it did not.

    It holds for this device, these sizes and settings, and for the buckets and micro batches that are not larger than
    what was measured.

    Raises:
        SanaError: a record is damaged, or of another version.
    """
    paths = sorted((work_dir / FOLDER).glob("*.json"))
    if not paths:
        return None
    machine, most = this_machine(config.resources.device), max(sizes.num_tokens(bucket) for bucket in buckets)
    fitting: list[float] = []
    for path in paths:
        found = Calibration.load(path, repair_hint=_REPAIR)
        here = (found.machine.device, found.machine.torch) == (machine.device, machine.torch)
        same = found.transformer == sizes_digest(sizes) and found.settings["train"] == _of_training(config)
        if not here or not same or found.chosen is None:
            continue
        large_enough = sizes.num_tokens(Bucket.parse(found.bucket)) >= most
        if large_enough and found.chosen.micro_batch_size >= config.resources.micro_batch_size:
            fitting.append(found.chosen.kept)
    return max(fitting, default=None)
