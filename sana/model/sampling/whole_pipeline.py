"""A trained model whole, as its users load it: with tokenizer, text encoder and VAE."""

from pathlib import Path

import torch
from diffusers import SanaVideoPipeline

from sana.errors import SanaError
from sana.wording import one_line

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_whole_pipeline(folder: Path, *, device: str, dtype: str | None) -> SanaVideoPipeline:
    """Load a folder in diffusers layout; `dtype` None: as each part is stored.

    Raises:
        SanaError: there is no such dtype or device, or diffusers cannot load it.
    """
    if dtype is not None and dtype not in DTYPES:
        raise SanaError(f"dtype {dtype} is none of {', '.join(DTYPES)}")
    try:
        kept = {} if dtype is None else {"torch_dtype": DTYPES[dtype]}
        return SanaVideoPipeline.from_pretrained(str(folder), **kept).to(device)
    except (OSError, ValueError, RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        raise SanaError(f"diffusers cannot load {folder} to {device}: {one_line(error, with_type=True)}") from error
