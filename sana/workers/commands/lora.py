"""Worker: adapters and whole models made of each other: `sana lora extract`, `sana lora merge`."""

import sana.runtime.worker_process  # noqa: F401 - first of all

# isort: split
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sana.atomic_io import TEMP_PREFIX
from sana.config.places import at_home
from sana.config.training.adapter_names import adapter_targets
from sana.config.training.method import LoraMethod
from sana.errors import SanaError
from sana.model.adapters.extract import changes_beside, check_rank, check_same_model, extract
from sana.model.adapters.layouts import FILE_NAMES, Adapter, comfyui_tensors, peft_tensors, read_adapter
from sana.model.adapters.lora_layers import lora_metadata
from sana.model.adapters.merge import merge_into
from sana.model.device import out_of_memory_explained, resolve_device
from sana.model.model_resolver import INDEX, base_files, local_checkpoint
from sana.model.transformer import DTYPES, load_transformer, save_transformer_config
from sana.progress import Progress, Report
from sana.runtime.command_specs import LoraExtractSpec, LoraMergeSpec
from sana.runtime.launcher import result_path
from sana.runtime.results import LoraExtractResult, LoraMergeResult
from sana.runtime.tool import run_tool_worker
from sana.training.checkpoints.tensor_file import Tensors, file_blocks, file_bytes
from sana.training.exports.exports import COMFYUI_FILE
from sana.training.exports.fixed_batch import computing_in, fixed_batch, relative_difference, velocity_of
from sana.wording import one_line

_CPU = torch.device("cpu")
_COMPONENT = "transformer"
_WEIGHTS = "diffusion_pytorch_model.safetensors"  # diffusers' name
_METADATA = {"format": "pt"}


@out_of_memory_explained("a machine with more: two copies of the transformer in float32 are held")
def merge(spec: LoraMergeSpec, job_path: Path, report: Report) -> None:
    """Write a whole model: the base's files, and its transformer with the adapter merged in.

    Raises:
        SanaError: the base or the adapter cannot be read, or they do not fit.
    """
    report(Progress(0, 0, "", phase="loading the base model"))
    base = _folder(spec.base, spec.revision)
    transformer = _load(base)
    weights = transformer.state_dict()
    adapter = read_adapter(Path(spec.adapter), {name: tuple(tensor.shape) for name, tensor in weights.items()})
    before = _velocity(transformer)
    merge_into(weights, adapter, scale=spec.scale)
    effect = relative_difference(before, _velocity(transformer))
    out = {name: tensor.to(DTYPES[spec.dtype]) for name, tensor in weights.items()}
    with _new_folder(Path(spec.out)) as folder:
        report(Progress(0, 0, "", phase="copying the base model's other files"))
        for name, path in base_files(str(base), without=_COMPONENT).items():
            _copy(path, folder / name)
        (folder / _COMPONENT).mkdir()
        save_transformer_config(transformer, folder / _COMPONENT)
        report(Progress(0, 0, "", phase="writing the transformer"))
        _write(folder / _COMPONENT / _WEIGHTS, out, _METADATA)
    num_bytes = file_bytes(out, metadata=_METADATA)
    result_path(job_path).write_bytes(LoraMergeResult(len(adapter), effect, num_bytes).to_json())


@out_of_memory_explained("a machine with more: two copies of the transformer in float32 are held")
def extract_adapter(spec: LoraExtractSpec, job_path: Path, report: Report) -> None:
    """Write the adapter in PEFT's and ComfyUI's layout, and what it captures.

    Raises:
        SanaError: a model cannot be read, they do not fit, or the rank is more than a layer has.
    """
    report(Progress(0, 0, "", phase="loading the models"))
    device = resolve_device(spec.device)
    tuned_model, base_model = _load(_folder(spec.model, None)), _load(_folder(spec.base, spec.revision))
    tuned, base = tuned_model.state_dict(), base_model.state_dict()
    check_same_model(tuned, base, where=spec.model)
    method = LoraMethod(name="lora", rank=spec.rank, targets=spec.targets)
    shapes = {name: tuple(tensor.shape) for name, tensor in base.items()}
    targets = adapter_targets(method, shapes, key="--targets")
    check_rank(spec.rank, targets, shapes)

    def on_layer(done: int) -> None:
        report(Progress(done, len(targets), "layers"))

    found = extract(tuned, base, targets, rank=spec.rank, device=device, on_layer=on_layer)
    beside = changes_beside(tuned, base, targets)
    wanted, before = _velocity(tuned_model), _velocity(base_model)
    merge_into(base, found.adapter)
    captured, changed = (sum(pair[part] for pair in found.energy.values()) for part in (0, 1))
    tensors = peft_tensors(found.adapter)
    result = LoraExtractResult(
        rank=spec.rank,
        energy={name: part / total if total else 1.0 for name, (part, total) in found.energy.items()},
        captured=captured / changed,
        left_out=sum(beside.values()) / (changed + sum(beside.values())),
        num_left_out=len(beside),
        model_velocity=relative_difference(before, wanted),
        adapter_velocity=relative_difference(_velocity(base_model), wanted),
        num_bytes=file_bytes(tensors),
    )
    with _new_folder(Path(spec.out)) as folder:
        _write(folder / FILE_NAMES[0], tensors, lora_metadata(method, targets))
        _write_comfyui(folder, found.adapter)
        (folder / LoraExtractResult.FILE).write_bytes(result.to_json())
    result_path(job_path).write_bytes(result.to_json())


def _write_comfyui(folder: Path, adapter: Adapter) -> None:
    (folder / COMFYUI_FILE).parent.mkdir()
    _write(folder / COMFYUI_FILE, comfyui_tensors(adapter), _METADATA)


def _folder(name: str, revision: str | None) -> Path:
    """Return a model as a local folder. Raises SanaError: it is none, and the hub does not give it."""
    path = at_home(name)
    if not path.is_dir():
        if path.exists() or name.count("/") != 1 or name.startswith((".", "/", "~")):
            raise SanaError(f"there is no folder {name}; name a model in diffusers layout, or a hub id (owner/name)")
        try:
            path = Path(local_checkpoint(name, revision=revision))
        except (OSError, ValueError) as error:
            raise SanaError(f"{name} is no folder, and the hub does not give it: {one_line(error)}") from error
    for needed in (INDEX, f"{_COMPONENT}/config.json"):
        if not (path / needed).is_file():
            raise SanaError(f"{path} has no {needed}: name a whole model in diffusers layout")
    return path


def _load(folder: Path) -> Any:
    """Load a transformer, float32. Raises SanaError: its weights are missing, damaged or of other shapes."""
    try:
        return load_transformer(str(folder))
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        said = one_line(error, with_type=True, most=300)
        raise SanaError(f"the transformer of {folder} cannot be loaded: {said}") from error


def _velocity(transformer: Any) -> Tensor:
    batch = fixed_batch(int(transformer.config.caption_channels))
    return velocity_of(transformer, batch, _CPU, computing_in("fp32", _CPU))


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """Yield a folder beside `out`, which gets that name at the end; nothing that is there is changed.

    Raises:
        SanaError: `out` holds something.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SanaError(f"{out} is there already, and nothing is overwritten; name a new folder")
    temp = out.with_name(f"{TEMP_PREFIX}{out.name}-{os.getpid()}")
    temp.mkdir()
    try:
        yield temp
        temp.rename(out)  # an empty folder is replaced
    finally:
        shutil.rmtree(temp, ignore_errors=True)


def _copy(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, target)


def _write(path: Path, tensors: Tensors, metadata: Mapping[str, str]) -> None:
    with path.open("wb") as file:
        for block in file_blocks(tensors, metadata=metadata):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())


if __name__ == "__main__":
    run_tool_worker({LoraMergeSpec: merge, LoraExtractSpec: extract_adapter})
