"""Exports loaded as a user loads them: by diffusers as it is, and nothing of ours."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import SanaVideoTransformer3DModel
from safetensors import SafetensorError
from safetensors.torch import load_file

from sana.errors import SanaError
from sana.wording import one_line

LEFT_OUT = ("text_encoder", "tokenizer", "vae")  # of a pipeline: what no velocity depends on
_LOAD_ERRORS = (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, SafetensorError)
_SAID_CHARS = 300


def stock_pipeline(path: str, *, dtype: torch.dtype) -> Any:
    """Return a SanaVideoPipeline of a checkpoint in diffusers layout, without what LEFT_OUT names.

    Raises:
        SanaError: diffusers cannot load it.
    """
    from diffusers import SanaVideoPipeline  # which imports transformers: seconds, for adapters alone

    with _loading(path):
        return SanaVideoPipeline.from_pretrained(path, torch_dtype=dtype, **dict.fromkeys(LEFT_OUT))


def stock_transformer(path: str, *, dtype: torch.dtype) -> Any:
    """Return the transformer of a checkpoint in diffusers layout, as every pipeline loads it.

    Raises:
        SanaError: diffusers cannot load it.
    """
    with _loading(path):
        return SanaVideoTransformer3DModel.from_pretrained(path, subfolder="transformer", torch_dtype=dtype)


def load_peft_layout(pipe: Any, file: Path) -> None:
    """Load an adapter in PEFT's layout. Raises SanaError: diffusers cannot."""
    with _loading(str(file)):
        pipe.load_lora_weights(str(file.parent), weight_name=file.name)


def load_comfyui_layout(pipe: Any, file: Path) -> None:
    """Load an adapter in ComfyUI's layout, whose alphas diffusers wants apart. Raises SanaError: diffusers cannot."""
    with _loading(str(file)):
        tensors = load_file(file)
        alphas = {name: float(tensors.pop(name)) for name in list(tensors) if name.endswith(".alpha")}
        pipe.transformer.load_lora_adapter(tensors, prefix="diffusion_model", network_alphas=alphas)


@contextmanager
def _loading(what: str) -> Iterator[None]:
    """Turn whatever a loader of diffusers raises into a SanaError of one line."""
    try:
        yield
    except _LOAD_ERRORS as error:
        said = one_line(error, with_type=True, most=_SAID_CHARS)
        raise SanaError(
            f"diffusers cannot load {what}: {said}. Nothing was committed; train.resources.check_exports=false commits "
            "without this check"
        ) from error
