"""A model that does not learn, whose weights are copied to the device group by group: diffusers' group offload.

It changes no number. Weights that learn have `sana.training.offload`: with streams, diffusers puts back the copy that
it made at the start, and so would drop every update.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers.hooks import HookRegistry, apply_group_offloading
from torch import nn

from sana.config.places import at_home
from sana.config.training.offload import FrozenGroupOffload
from sana.errors import ConfigError
from sana.model.offload.scratch_folder import ScratchFolder

# diffusers' names of the hooks that it adds
_HOOKS = ("group_offloading", "layer_execution_tracker", "lazy_prefetch_group_offloading")


class OffloadedModel:
    """Takes over a model in the host's memory, in place; its parameters are frozen.

    With `to_disk_path` the weights are in files of a folder of its own, which is removed with the model or the process.
    On a CPU no stream copies ahead.

    Raises:
        ConfigError: diffusers cannot read from disk to this device.
    """

    def __init__(self, model: nn.Module, config: FrozenGroupOffload, device: torch.device, *, work_dir: Path) -> None:
        self._model, self._config, self._device = model, config, device
        self._disk = work_dir / at_home(config.to_disk_path) if config.to_disk_path else None
        self._with_stream = config.use_stream and device.type == "cuda"
        if self._disk is not None and device.type == "cuda" and device.index and not self._with_stream:
            raise ConfigError(
                f"without use_stream diffusers reads offloaded weights from disk to cuda:0, not to {device}; "
                "set use_stream to true, or to_disk_path to nothing"
            )
        # autocast keeps casts of weights that could learn: as much memory as offload saves
        model.requires_grad_(False)
        self._offload()

    @contextmanager
    def reloading(self) -> Iterator[None]:
        """Within it the model is a plain one in the host's memory, whose weights must be loaded as a whole."""
        registry = HookRegistry.check_if_exists_or_initialize(self._model)
        for name in _HOOKS:
            registry.remove_hook(name, recurse=True)
        for name, buffer in self._model.named_buffers():
            buffer.data = self._buffers[name]
        if self._folder is not None:
            self._folder.remove()
        yield
        self._offload()

    def _offload(self) -> None:
        # on a disk they are among the weights, and those that no checkpoint has would be lost
        self._buffers = {name: buffer.detach().cpu().clone() for name, buffer in self._model.named_buffers()}
        # diffusers takes a file that is there for its own, so each model needs an empty folder
        self._folder = ScratchFolder(self._disk) if self._disk is not None else None
        self._model.offload_folder = self._folder  # type: ignore[assignment]  # it stays as long as the model
        apply_group_offloading(
            self._model,
            onload_device=self._device,
            offload_type=self._config.type,
            num_blocks_per_group=self._config.blocks_per_group,
            use_stream=self._with_stream,
            offload_to_disk_path=str(self._folder.path) if self._folder else None,
        )
