"""Group offload, there one set of flags for training and validation and here one a stage; and kept activations."""

from dataclasses import dataclass

from sana.config.training.optimization.optimizer_support import SUPPORT
from sana.convert.conversion import Conversion, Keys
from sana.convert.mapping import Run
from sana.errors import ConfigError

ENABLED, KIND = "enable_group_offload", "group_offload_type"
BLOCKS, STREAM, DISK = "group_offload_blocks_per_group", "group_offload_use_stream", "group_offload_to_disk_path"
TEXT_ENCODER, VAE = "group_offload_text_encoder", "group_offload_vae"
KEYS = " ".join([ENABLED, KIND, BLOCKS, STREAM, DISK, TEXT_ENCODER, VAE])

_TRAINING = "train.resources.offload"


@dataclass(frozen=True)
class _Flags:
    """The flags as they are there."""

    type: str
    blocks_per_group: int
    use_stream: bool
    to_disk_path: str


def convert_offload(conversion: Conversion, keys: Keys, run: Run) -> None:
    """Write `resources.offload` of train, sample and encode_captions.

    Raises:
        ConfigError: the type is none of the two.
    """
    if keys.has(VAE):
        conversion.leave_out(VAE, keys.take(VAE), "of no effect there; here sample.vae_tiling saves the VAE's memory")
    if not keys.flag(ENABLED):
        conversion.set(f"{_TRAINING}.type", "none", "block_level: weights in the host's memory, for a small card",
                       *keys.present(ENABLED))  # fmt: skip
        for key in keys.present(KIND, BLOCKS, STREAM, DISK, TEXT_ENCODER):
            conversion.leave_out(key, keys.take(key), f"of no effect without {ENABLED}")
        return
    kind = keys.text(KIND, "block_level")
    if kind not in ("block_level", "leaf_level"):
        raise ConfigError(f"{keys.where}: {KIND} is {kind!r}, neither block_level nor leaf_level")
    there = _Flags(
        type=kind,
        blocks_per_group=max(1, keys.integer(BLOCKS, 1)),
        use_stream=keys.flag(STREAM),
        to_disk_path=keys.text(DISK),
    )
    _write_training(conversion, keys, run, there)
    _write_frozen(conversion, keys, "sample.resources.offload", there)
    if keys.flag(TEXT_ENCODER):
        _write_frozen(conversion, keys, "encode_captions.resources.offload", there, TEXT_ENCODER)
    elif keys.has(TEXT_ENCODER):
        conversion.set("encode_captions.resources.offload.type", "none", "as there", TEXT_ENCODER)


def _write_training(conversion: Conversion, keys: Keys, run: Run, there: _Flags) -> None:
    """Write what of it training has here; all weights learn."""
    optimizer = conversion.value("train.optimizer.name")
    refused = ""
    if (ranks := keys.integer("num_processes", run.num_processes)) > 1:
        refused = (
            f"offload in training is for one GPU here; {ranks} share the state with train.resources.sharding: full"
        )
    elif not SUPPORT[optimizer].offload:
        refused = f"{optimizer} does not hold with offload in training: another train.optimizer does"
    if refused:
        conversion.set(f"{_TRAINING}.type", "none", refused, ENABLED)
        return
    kind = "" if there.type == "block_level" else f"{there.type} there; "
    why = f"{kind}here with gradients and optimizer, which stay on the GPU there"
    conversion.set(f"{_TRAINING}.type", "block_level", why, *keys.present(ENABLED, KIND))
    blocks = there.blocks_per_group if there.type == "block_level" else 1
    conversion.set(f"{_TRAINING}.blocks_per_group", blocks, "as there", *keys.present(BLOCKS))
    no_stream = "" if there.use_stream else "; true copies the next blocks ahead"
    conversion.set(f"{_TRAINING}.use_stream", there.use_stream, f"as there{no_stream}", *keys.present(STREAM))
    if there.to_disk_path:
        conversion.notes.append("weights that learn do not go to a disk")


def _write_frozen(conversion: Conversion, keys: Keys, at: str, there: _Flags, *enabled: str) -> None:
    """Write it for a stage whose model does not learn, through diffusers as there."""
    conversion.set(f"{at}.type", there.type, "as there, by diffusers", *keys.present(ENABLED, KIND), *enabled)
    if there.type == "block_level":
        one = there.use_stream and there.blocks_per_group > 1
        why = "one with use_stream, there too" if one else "as there"
        conversion.set(f"{at}.blocks_per_group", 1 if one else there.blocks_per_group, why, *keys.present(BLOCKS))
    elif keys.has(BLOCKS):
        conversion.set(f"{at}.blocks_per_group", 1, "of no effect with leaf_level", BLOCKS)
    conversion.set(f"{at}.use_stream", there.use_stream, "as there", *keys.present(STREAM))
    if there.to_disk_path:
        conversion.set(f"{at}.to_disk_path", there.to_disk_path, "a folder in it, for each process", DISK)


def convert_activations(conversion: Conversion, keys: Keys, run: Run) -> None:
    """Write `train.resources.activation_memory`, after offload, with which none are kept."""
    why = "auto: as many activations are kept as fit; recompute_all: none, as gradient_checkpointing does there"
    value: str | float = "auto" if keys.flag("gradient_checkpointing", True) else 1.0
    if conversion.value(f"{_TRAINING}.type") == "block_level":
        value, why = "recompute_all", "offload needs it: what is kept would keep its weights too"
    conversion.set("train.resources.activation_memory", value, why, *keys.present("gradient_checkpointing"))
