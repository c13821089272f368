"""How a run computes the transformer's blocks: resolved from the config once, for training and for evaluation alike."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sana.bucket import Bucket
from sana.config.training.train import TrainConfig
from sana.costs.training import is_compiled
from sana.costs.transformer import TransformerSizes
from sana.errors import ConfigError
from sana.facts import ComputeSettings
from sana.model.device import use_compile_cache
from sana.training.compute.activations import kept_activations
from sana.training.compute.compiled_blocks import CompiledBlocks
from sana.training.parallel.parallel import Parallel

_CAPTION_TOKENS = 300  # of the published model, for the estimate of memory


@dataclass(frozen=True)
class BlockCompute:
    """What was resolved: recorded in checkpoints and reports. `blocks` is None where they are not compiled."""

    settings: ComputeSettings
    blocks: CompiledBlocks | None

    def eager(self) -> AbstractContextManager[None]:
        """Within it nothing is compiled: for shapes that are seldom computed, such as those of sampling."""
        return nullcontext() if self.blocks is None else self.blocks.eager()

    @property
    def keeps_casts(self) -> bool:
        """Whether a step keeps the bf16 copies of all weights for its backward pass anyway: it may use them again."""
        return self.blocks is None and self.settings.activations_kept == 1.0


def prepare_blocks(
    transformer: Any,
    config: TrainConfig,
    parallel: Parallel,
    *,
    buckets: Iterable[str],
    work_dir: Path,
) -> BlockCompute:
    """Set how the blocks of a SanaVideoTransformer3DModel are computed, before ranks wrap it.

    `buckets` are the shapes to be trained on.

    Without buckets nothing is kept: evaluation has no backward pass.

    Raises:
        ConfigError: a share of activations is to be kept, but blocks are not compiled on this device.
    """
    on_gpu = parallel.device.type == "cuda"
    compiled = is_compiled(config, on_gpu=on_gpu)
    share = config.resources.activation_memory
    if not compiled and not isinstance(share, str) and 0.0 < share < 1.0:
        raise ConfigError(
            f"train.resources.activation_memory {share:g} needs compiled blocks, and compile: auto compiles none on a "
            f"{parallel.device.type}; set train.resources.compile=always, or activation_memory to auto, "
            "recompute_all or 1"
        )
    shapes = [Bucket.parse(name) for name in buckets]
    kept = 0.0
    if shapes:
        sizes = TransformerSizes.of(transformer.config)
        kept = kept_activations(
            config,
            sizes,
            shapes,
            caption_tokens=_CAPTION_TOKENS,
            device=parallel.device,
            num_ranks=config.resources.num_processes,
            work_dir=work_dir,
        )
        kept = parallel.smallest(kept)  # of the rank whose card has least room
        if kept == 0.0:
            transformer.enable_gradient_checkpointing()
    blocks = None
    if compiled:
        use_compile_cache(work_dir / "cache" / "compiled")
        blocks = CompiledBlocks(transformer.transformer_blocks, kept=kept or 1.0)
    return BlockCompute(compute_settings(config, parallel, compiled=compiled, kept=kept), blocks)


def compute_settings(config: TrainConfig, parallel: Parallel, *, compiled: bool, kept: float) -> ComputeSettings:
    """Return what is recorded of how this rank computes."""
    device = parallel.device
    return ComputeSettings(
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        torch=str(torch.__version__),
        compiled=compiled,
        activations_kept=kept,
        micro_batch_size=config.resources.micro_batch_size,
        num_ranks=parallel.num_ranks,
        sharding=config.resources.sharding if parallel.num_ranks > 1 else "none",
        offload=config.resources.offload.type,
        precision=_precision(config, device),
    )


def _precision(config: TrainConfig, device: torch.device) -> str:
    """Return what matrix products are computed in on this device."""
    if config.weights_dtype == "bf16":
        return "bf16"
    if config.mixed_precision == "bf16":
        return "bf16 autocast"
    return config.mixed_precision if device.type == "cuda" else "fp32"  # a CPU has no TF32
