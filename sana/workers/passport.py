"""Worker: each export of a training is loaded as a user loads it, and must compute what was trained.

Nothing of ours loads an export here: diffusers does, as it is.
"""

import sana.runtime.worker_process  # noqa: F401 - first of all

# isort: split
import importlib.metadata
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from sana.config.pipeline import Config
from sana.config.training.method import LoraMethod
from sana.config.training.train import TrainConfig
from sana.errors import SanaError
from sana.model.adapters.stock_loading import (
    LEFT_OUT,
    load_comfyui_layout,
    load_peft_layout,
    stock_pipeline,
    stock_transformer,
)
from sana.model.device import out_of_memory_explained, resolve_device
from sana.model.model_resolver import local_checkpoint
from sana.progress import Progress
from sana.runtime.job import Job, run_worker
from sana.runtime.results import ExportCheck, Layout, Passport
from sana.runtime.specs import PassportSpec
from sana.store import Store
from sana.training.exports.exports import COMFYUI_FILE, MERGED
from sana.training.exports.fixed_batch import (
    STRICT_VELOCITY,
    VELOCITY,
    Precision,
    computing_in,
    relative_difference,
    velocity_of,
)
from sana.training.exports.model_export import FOLDER

PEFT_FILE = "pytorch_lora_weights.safetensors"
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
# of a velocity that was computed in another order, relative, by train.mixed_precision
_BOUNDS = {"fp32": 1e-4, "tf32": 1e-2, "bf16": 5e-2}
# and by the same layers on the same CPU, whose products may add up unaligned memory in another order
_SAME_LAYERS = {"fp32": 1e-6, "tf32": 1e-6, "bf16": 1e-3}
_EIGHT_BITS = 0.3  # of the velocity of a base whose weights are off by up to 6 % each; strict float32 is what counts
_CPU = torch.device("cpu")
_ROUNDING = 1e-5  # of a velocity in strict float32, relative: sums in another order
_OF_EFFECT = 0.01  # of what the adapter changes: how far an export may be off in strict float32
_VERSIONS = ("diffusers", "peft", "torch")


class Comparison:
    """What the trained model computes of a batch, and what an export's velocity is compared by."""

    def __init__(self, config: Config, spec: PassportSpec) -> None:
        tensors, train = load_file(spec.reference), config.train
        self._trained = tensors.pop(VELOCITY)
        self._strict = tensors.pop(STRICT_VELOCITY, None)  # of the same weights, whole, float32 on a CPU
        self._batch = tensors
        self.precision = train.mixed_precision
        # weights in bf16 are computed with as they are
        self._casts: Precision = "fp32" if train.weights_dtype == "bf16" else train.mixed_precision
        self.device = resolve_device(train.resources.device)
        self._why_other_bits = _why_other_bits(train, self.device, spec.num_ranks)
        self._base_weights = train.base_weights
        self.effect: float | None = None

    def measure_effect(self, base: Any) -> None:
        """Measure how far an adapter moves the velocity of its base model."""
        assert self._strict is not None  # an adapter's reference has it
        self.effect = relative_difference(self._strict_velocity(base), self._strict)

    def check(self, layout: Layout, file: str, loaded_by: str, model: Any) -> ExportCheck:
        """Compare a model that was loaded from an export, on the CPU, with what was trained; it is there afterwards."""
        strict = None if self._strict is None else relative_difference(self._strict_velocity(model), self._strict)
        computing = computing_in(self._casts, self.device)
        found = velocity_of(model.to(self.device), self._batch, self.device, computing)
        model.to("cpu")
        bound, why = self._bound(is_merged=layout == "merged")
        return ExportCheck(
            layout=layout,
            file=file,
            loaded_by=loaded_by,
            difference=relative_difference(found, self._trained),
            bound=bound,
            why_bound=why,
            strict_difference=strict,
            strict_bound=None if strict is None else max(_ROUNDING, _OF_EFFECT * (self.effect or 0.0)),
        )

    def _strict_velocity(self, model: Any) -> Tensor:
        return velocity_of(model, self._batch, _CPU, computing_in("fp32", _CPU))

    def _bound(self, *, is_merged: bool) -> tuple[float, str]:
        """Return how far a velocity that is computed as in training may be off, and why."""
        if self._base_weights != "plain":
            return _EIGHT_BITS, f"training computed with a base in {self._base_weights}, and an export has a whole one"
        why = "weights and adapter are one product" if is_merged else self._why_other_bits
        if not why:
            return _SAME_LAYERS[self.precision], "the same layers on the same CPU: bit-equal where memory is aligned"
        return _BOUNDS[self.precision], f"{why}: other last bits of {self.precision}"


def _why_other_bits(train: TrainConfig, device: torch.device, num_ranks: int) -> str:
    """Return why layers that are the same may compute other last bits than in training; "": they do not."""
    if device.type != "cpu" or num_ranks > 1:
        return f"{num_ranks} ranks on {device.type}"
    if isinstance(train.method, LoraMethod):
        if train.method.use_dora:
            return "DoRA's lengths are of weights that training rounded"
        if train.weights_dtype == "bf16":
            return "training rounded the base weights"
    return ""


@out_of_memory_explained("train.resources.check_exports=false there, which commits without this check")
def passport(job: Job[PassportSpec]) -> None:
    """Check all exports, and write the record of it.

    Raises:
        SanaError: an export cannot be loaded, or computes something else; names it and the number.
    """
    spec = job.spec
    found = Comparison(job.config, spec)
    with TemporaryDirectory(dir=job.work_dir, prefix="exports-") as scratch:
        folder = _local_folder(job.open_store(), spec, Path(scratch))
        job.report(Progress(0, 0, "", phase="loading the exports with diffusers"))
        is_adapter = FOLDER + PEFT_FILE in spec.files
        dtype = _DTYPES[job.config.train.weights_dtype]
        checks = _check_adapter(found, spec, folder) if is_adapter else _check_full(found, folder, dtype)
    record = Passport(
        checks=tuple(checks),
        not_exported=dict(spec.not_exported),
        effect=found.effect,
        device=found.device.type,
        precision=found.precision,
        versions={name: importlib.metadata.version(name) for name in _VERSIONS},
    )
    for check in record.checks:
        _require(check)
    (Path(spec.out_dir) / Passport.FILE).write_bytes(record.to_json())


def _check_full(found: Comparison, folder: Path, dtype: torch.dtype) -> list[ExportCheck]:
    transformer = stock_transformer(str(folder), dtype=dtype)  # a pipeline would import the text encoder's library
    loaded_by = 'SanaVideoTransformer3DModel.from_pretrained(FOLDER, subfolder="transformer")'
    return [found.check("diffusers", f"{FOLDER}transformer", loaded_by, transformer)]


def _check_adapter(found: Comparison, spec: PassportSpec, folder: Path) -> list[ExportCheck]:
    pipe = stock_pipeline(local_checkpoint(spec.model.path, revision=spec.model.revision), dtype=torch.float32)
    found.measure_effect(pipe.transformer)
    load_peft_layout(pipe, folder / PEFT_FILE)
    checks = [found.check("peft", FOLDER + PEFT_FILE, "pipe.load_lora_weights(FOLDER)", pipe.transformer)]
    if FOLDER + COMFYUI_FILE in spec.files:
        pipe.unload_lora_weights()
        load_comfyui_layout(pipe, folder / COMFYUI_FILE)
        loaded_by = 'pipe.transformer.load_lora_adapter(TENSORS, prefix="diffusion_model", network_alphas=ALPHAS)'
        checks.append(found.check("comfyui", FOLDER + COMFYUI_FILE, loaded_by, pipe.transformer))
    del pipe
    if any(name.startswith(FOLDER + MERGED) for name in spec.files):
        pipe = stock_pipeline(str(folder / MERGED), dtype=torch.float32)
        loaded_by = "SanaVideoPipeline.from_pretrained(FOLDER/merged)"
        checks.append(found.check("merged", f"{FOLDER}{MERGED}transformer", loaded_by, pipe.transformer))
    return checks


def _require(check: ExportCheck) -> None:
    if check.holds:
        return
    off, bound = check.difference, check.bound
    of_what = "that of the trained model"
    if off <= bound and check.strict_difference is not None:
        off, bound = check.strict_difference, check.strict_bound or 0.0
        of_what = "that of the same weights in strict float32"
    raise SanaError(
        f"the export {check.file}, loaded by {check.loaded_by}, does not give what was trained: its velocity is off by "
        f"{off:.3g} of {of_what}, allowed is {bound:.3g} ({check.why_bound}). Nothing was committed; the same command "
        "exports again from the last checkpoint, and train.resources.check_exports=false commits without this check"
    )


def _local_folder(store: Store, spec: PassportSpec, scratch: Path) -> Path:
    """Return the exports as a local folder; of a bucket, what is needed of them is fetched to `scratch`."""
    if (path := store.local_path(spec.folder)) is not None:
        return path
    for name, info in _needed(spec.files).items():
        target = scratch / name.removeprefix(FOLDER)
        target.parent.mkdir(parents=True, exist_ok=True)
        store.fetch(info.key, target)
    return scratch


def _needed(files: Mapping[str, Any]) -> dict[str, Any]:
    """Return the files that pipelines without VAE and text encoder read."""
    left_out = set(LEFT_OUT)
    return {name: info for name, info in files.items() if not left_out & set(PurePosixPath(name).parts)}


if __name__ == "__main__":
    run_worker(passport, PassportSpec)
