"""The first look of `sana init`: at a sample of the source, and at this machine."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.display.progress_display import RunDisplay
from flows.doctor.machine import list_gpus
from sana.config.pipeline import Config
from sana.context import Context
from sana.costs.calibration import find_calibration
from sana.costs.machine import Machine, host_memory, this_machine
from sana.costs.training import how_to_keep
from sana.data.sources.sample import SampleLimits
from sana.errors import SanaError
from sana.model.model_configs import ModelSizes, read_model_sizes
from sana.pipeline.check import Checked, check_data
from sana.pipeline.starting.fitting import PUBLISHED, Fit, Method, Room, fit
from sana.pipeline.starting.starter import MODEL, Starter
from sana.stages.bodies.trainable_here import largest_bucket
from sana.store import open_store
from sana.wording import in_units

_METHODS: tuple[Method, Method] = ("full", "lora")


def look_at_source(config: Config, folder: Path, limits: SampleLimits) -> Checked:
    """List the source, and probe a sample of its clips; no root is read or written.

    Raises:
        SanaError: a worker failed otherwise than by a video.
    """
    store = open_store(str(folder / "no-root"))
    looked_at = config.model_copy(update={"work_dir": str(folder)})
    with RunDisplay() as display:
        return check_data(Context(looked_at, store, folder), display.reporter, limits=limits).with_config(config)


@dataclass(frozen=True)
class Hardware:
    """What this machine has: the names of its GPUs; the first of them, or the CPU; and the host's memory in bytes."""

    gpus: tuple[str, ...]
    machine: Machine
    host_bytes: int

    @property
    def room(self) -> Room:
        return Room(self.device_bytes, self.host_bytes, self.machine.is_gpu)

    @property
    def device_bytes(self) -> int:
        """Memory of a GPU, or of the CPU; of a GPU without memory of its own the host's."""
        return self.machine.memory_bytes or self.host_bytes

    def __str__(self) -> str:
        """Say what there is."""
        host = f"{in_units(self.host_bytes)} host memory"
        if not self.machine.is_gpu:
            return f"no GPU, {self.machine.device}, {host}"
        num = f"{len(self.gpus)} x " if len(self.gpus) > 1 else ""
        return f"{num}{self.machine.device}, {in_units(self.device_bytes)}, {host}"


def look_at_hardware() -> Hardware:
    """Find the GPUs and memory of this machine."""
    listed, machine = list_gpus(), this_machine()
    names = tuple(gpu.name for gpu in listed) if isinstance(listed, list) and machine.is_gpu else ()
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return Hardware(names[: len(visible)] if visible else names, machine, host_memory())


class Model:
    """Looks at the config files of models, at each once: one on the hub takes seconds."""

    def __init__(self, starter: Starter, folder: Path) -> None:
        self._starter, self._folder = starter, folder
        self._known: dict[str, ModelSizes | SanaError] = {}

    def sizes(self, path: str) -> ModelSizes | None:
        """Return the sizes of a model; None where they are not to be had."""
        if path not in self._known:
            try:
                config = self._starter.config.model.model_copy(update={"path": path})
                self._known[path] = read_model_sizes(config, work_dir=self._folder)
            except SanaError as error:
                self._known[path] = error
        found = self._known[path]
        return found if isinstance(found, ModelSizes) else None

    def trouble(self, path: str) -> str:
        """Say why they are not to be had; "" if they are."""
        return "" if self.sizes(path) else str(self._known[path])

    @property
    def work_dir(self) -> Path:
        """Where records of calibrations are."""
        return self._folder


@dataclass(frozen=True)
class Training:
    """What training needs here: full and LoRA, by counting."""

    full: Fit
    lora: Fit


def look_at_training(starter: Starter, hardware: Hardware, model: Model) -> Training | None:
    """Count what full training and LoRA need; None where the model's sizes are not known here."""
    path = starter.config.model.path
    found = model.sizes(path)
    if found is None and path != MODEL:
        return None
    sizes = PUBLISHED if found is None else found.transformer
    return Training(*(fit(method, starter.tried, sizes, hardware.room) for method in _METHODS))


def measured_here(config: Config, model: Model) -> Mapping[str, Any]:
    """Return what `sana calibrate` found to be fastest for this config, by dotted key; empty if it was not measured."""
    sizes = model.sizes(config.model.path)
    if sizes is None:
        return {}
    at_work = config.model_copy(update={"work_dir": str(model.work_dir)})
    try:
        calibration = find_calibration(at_work, sizes.configs, str(largest_bucket(config)))
    except SanaError:  # a damaged record: `sana calibrate` and plan say so
        return {}
    if calibration is None or calibration.chosen is None:
        return {}
    chosen = calibration.chosen
    key, _, _ = how_to_keep(chosen.kept).partition("=")
    return {key: chosen.kept or "recompute_all", "train.resources.micro_batch_size": chosen.micro_batch_size}
