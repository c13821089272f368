"""The Sana Video transformer: loading it safely, and predicting a velocity.

Shapes in this module: B samples, L caption tokens, C channels of the text encoder; a latent is [B, 16, f, h, w].
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import SanaVideoTransformer3DModel
from diffusers.models.modeling_utils import no_init_weights
from safetensors import safe_open
from torch import Tensor, nn

from sana.bucket import PATCH

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}  # by train.weights_dtype

_MODULATION_TABLE = "scale_shift_table"


def load_transformer(
    path: str,
    *,
    revision: str | None = None,
    dtype: torch.dtype = torch.float32,
) -> SanaVideoTransformer3DModel:
    """Load the transformer of a diffusers-layout checkpoint, on the CPU and in eval mode.

    float32 gives master weights for full fine-tuning. Another dtype must be set here, not with `.to(dtype)`
    afterwards: that rounds the rotary tables too.

    Raises:
        ValueError: the checkpoint lacks weights, or has some of another shape.
    """
    try:
        model, info = SanaVideoTransformer3DModel.from_pretrained(
            path, subfolder="transformer", revision=revision, torch_dtype=dtype, output_loading_info=True
        )
    except ValueError as error:
        if _MODULATION_TABLE not in str(error):
            raise
        model, info = _load_with_old_table(path, revision=revision, dtype=dtype)
    if info["missing_keys"]:
        raise ValueError(
            f"{path}/transformer lacks {len(info['missing_keys'])} weights that SanaVideoTransformer3DModel needs, "
            f"first {min(info['missing_keys'])}; is it a Sana Video checkpoint in diffusers layout?"
        )
    return model


def read_transformer(folder: Path) -> Mapping[str, Tensor]:
    """Read the weights of the transformer in a folder in diffusers layout, to the CPU. Raises as `load_transformer`."""
    weights: Mapping[str, Tensor] = load_transformer(str(folder)).state_dict()
    return weights


def save_transformer_config(transformer: nn.Module, folder: Path) -> None:
    """Write the transformer's config.json to a folder, as `save_pretrained` does beside the weights.

    A sharded model has a class of FSDP2's own, whose name would load nowhere: the name is always diffusers'. Where the
    model was loaded from is left out: the same run elsewhere, or resumed, exports the same bytes.
    """
    assert isinstance(transformer, SanaVideoTransformer3DModel)
    config = json.loads(transformer.to_json_string()) | {"_class_name": SanaVideoTransformer3DModel.__name__}
    config.pop("_name_or_path", None)
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def transformer_with(
    path: str, weights: Mapping[str, Tensor], *, revision: str | None = None, dtype: torch.dtype = torch.float32
) -> SanaVideoTransformer3DModel:
    """Build the transformer of a checkpoint with other weights, on the CPU and in eval mode.

    Only its config.json is read: its own weights, 8 GB of the published model, would be replaced at once. `weights` are
    rounded to `dtype` as they are copied; rotary tables are none, and stay float32.

    Raises:
        RuntimeError: a weight is missing, unknown or of another shape.
    """
    model = empty_transformer(path, revision=revision, dtype=dtype)
    model.load_state_dict(weights)
    return model


def empty_transformer(
    path: str, *, revision: str | None = None, dtype: torch.dtype = torch.float32
) -> SanaVideoTransformer3DModel:
    """Build the transformer of a checkpoint from its config.json, on the CPU and in eval mode: its weights are not set.

    All of them must be replaced. Rotary tables are right, and float32.
    """
    config = SanaVideoTransformer3DModel.load_config(path, subfolder="transformer", revision=revision)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with no_init_weights():
            model: SanaVideoTransformer3DModel = SanaVideoTransformer3DModel.from_config(config)
    finally:
        torch.set_default_dtype(before)
    return model.eval()


def predict(transformer: nn.Module, noisy: Tensor, timesteps: Tensor, captions: Tensor, mask: Tensor) -> Tensor:
    """Return the predicted velocity: float32 of the shape of `noisy`, [B, 16, f, h, w].

    `timesteps` is [B] on the 0..1000 scale, kept in float32; `captions` [B, L, C] and `mask` [B, L] (1 for a real
    token) come from `pad`: what the mask hides has no effect. Inputs are cast to the weights' dtype; autocast,
    if wanted, is the caller's. Works on a wrapped (compiled, distributed) transformer as well.

    Raises:
        ValueError: h or w is odd: the patcher would floor it and return another shape.
    """
    if noisy.shape[-2] % PATCH or noisy.shape[-1] % PATCH:
        raise ValueError(f"latent {tuple(noisy.shape)}: height and width must be multiples of {PATCH}")
    dtype = next(transformer.parameters()).dtype
    velocity: Tensor = transformer(
        noisy.to(dtype),
        encoder_hidden_states=captions.to(dtype),
        timestep=timesteps.float(),
        encoder_attention_mask=mask,
        return_dict=False,
    )[0]
    return velocity.float()


def pad(tokens: list[Tensor], *, length: int | None = None) -> tuple[Tensor, Tensor]:
    """Stack captions [L_i, C] into embeddings [B, L, C], zeros after the end, and an int64 mask [B, L].

    L is `length`, or that of the longest caption: padding has no effect on the transformer, only on its speed.

    Raises:
        ValueError: there is no caption, one has no token, or one is longer than `length`.
    """
    sizes = [len(caption) for caption in tokens]
    if not sizes or min(sizes) == 0:
        raise ValueError(f"captions have {sizes} tokens; need at least one caption, and one token in each")
    length = max(sizes) if length is None else length
    if max(sizes) > length:
        raise ValueError(f"a caption has {max(sizes)} tokens, more than the {length} to pad to")
    embeds = tokens[0].new_zeros(len(tokens), length, tokens[0].shape[1])
    mask = torch.zeros(len(tokens), length, dtype=torch.int64, device=embeds.device)
    for row, caption in enumerate(tokens):
        embeds[row, : len(caption)] = caption
        mask[row, : len(caption)] = 1
    return embeds, mask


def _load_with_old_table(
    path: str, *, revision: str | None, dtype: torch.dtype
) -> tuple[SanaVideoTransformer3DModel, dict[str, list[Any]]]:
    """Load a checkpoint whose final modulation table is [1, 2, D] instead of [2, D] (SimpleTuner reports such).

    diffusers either raises or leaves the table random (with a warning), so the stored one is copied by hand.
    """
    model, info = SanaVideoTransformer3DModel.from_pretrained(
        path,
        subfolder="transformer",
        revision=revision,
        torch_dtype=dtype,
        output_loading_info=True,
        low_cpu_mem_usage=False,
        ignore_mismatched_sizes=True,
    )
    wrong = [mismatch for mismatch in info["mismatched_keys"] if mismatch[0] != _MODULATION_TABLE]
    if wrong:
        raise ValueError(f"{path}/transformer: weights of another shape (name, stored, needed): {wrong[:3]}")
    folder = Path(path, "transformer") if Path(path).is_dir() else _cached_folder(path, revision)
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as weights:
            if _MODULATION_TABLE in weights.keys():  # noqa: SIM118 - it is no mapping
                stored = weights.get_tensor(_MODULATION_TABLE)
                model.scale_shift_table.data.copy_(stored.view(model.scale_shift_table.shape))
                return model, info
    raise ValueError(f"{folder}: no safetensors file holds {_MODULATION_TABLE}")


def _cached_folder(path: str, revision: str | None) -> Path:
    """Return where the hub's cache has the transformer that was just read."""
    from transformers.utils import cached_file  # a second to import; workers do without where models are folders

    config = cached_file(path, "config.json", subfolder="transformer", revision=revision)
    assert config is not None
    return Path(config).parent
