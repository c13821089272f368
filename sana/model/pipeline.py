"""Sampling from cached caption embeddings, by the pipeline of diffusers.

Shapes in this module: F frames, H height, W width (pixels); L caption tokens, C channels of the text encoder.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan, SanaVideoPipeline, SanaVideoTransformer3DModel
from torch import Tensor, nn

from sana.bucket import Bucket
from sana.config.encode import VaePrecision
from sana.config.training.offload import FrozenGroupOffload
from sana.data.video.given_video import GivenFrames
from sana.model.offload.group_offload import OffloadedModel
from sana.model.precision import STRICT, Float32Math, float32_math
from sana.model.sampling.clean_estimate import Preview, observed
from sana.model.sampling.held import Held, hold, sample_held
from sana.model.sampling.image_to_video import SanaFirstFramePipeline, encode_first_frame, from_first_frame
from sana.model.transformer import load_transformer, pad
from sana.model.vae import decode_latents, load_vae


class SanaPipeline(SanaVideoPipeline):  # type: ignore[misc]  # diffusers is untyped
    """SanaVideoPipeline for sizes that are multiples of 16.

    The stock one needs multiples of 32, which 7 of its own 11 480p sizes are not. Do not save it under this
    name, which diffusers gives to the image model: an export has the stock one's.
    """

    computes_on: torch.device | None = None  # where it has no VAE to tell it

    @property
    def _execution_device(self) -> torch.device:
        return self.computes_on or super()._execution_device

    def check_inputs(self, prompt: Any, height: int, width: int, *rest: Any, **named: Any) -> None:
        if height % 16 or width % 16:
            raise ValueError(f"height and width must be multiples of 16 but are {height} and {width}")
        # every other check is the parent's; twice a multiple of 16 passes its check of 32
        super().check_inputs(prompt, 2 * height, 2 * width, *rest, **named)


def load_pipeline(
    path: str,
    *,
    transformer: SanaVideoTransformer3DModel | None = None,
    revision: str | None = None,
    dtype: torch.dtype = torch.float32,
    vae_precision: VaePrecision = "tf32",
    vae_tiling: bool = False,
    device: str | torch.device = "cpu",
    offload: FrozenGroupOffload | None = None,
    work_dir: Path | None = None,
) -> SanaPipeline:
    """Load what sampling from cached captions needs: no tokenizer and no text encoder (5 GB of the published model).

    A given `transformer` is used as it is; one that is loaded gets `dtype`. The scheduler is of the
    checkpoint's own class: another class reading its config may silently miss the flow shift.
    `offload` is of the transformer, and `work_dir` is needed where its weights go to disk.
    """
    pipe: SanaPipeline = SanaPipeline.from_pretrained(
        path,
        revision=revision,
        tokenizer=None,
        text_encoder=None,
        vae=load_vae(path, revision=revision, precision=vae_precision, tiling=vae_tiling),
        transformer=transformer or load_transformer(path, revision=revision, dtype=dtype),
    )
    pipe.set_progress_bar_config(disable=True)
    if offload is None or not offload.is_on:
        pipe.to(device)
    else:
        pipe.vae.to(device)
        OffloadedModel(pipe.transformer, offload, torch.device(device), work_dir=work_dir or Path())
    return pipe


def denoiser(path: str, transformer: nn.Module, *, device: torch.device, revision: str | None = None) -> SanaPipeline:
    """Return a pipeline around a transformer as it is, where it is: it denoises on `device`, and has no VAE to decode.

    It has the scheduler of the checkpoint. The transformer may be one that is being trained: sharded, offloaded,
    with adapters.
    """
    pipe: SanaPipeline = SanaPipeline.from_pretrained(
        path, revision=revision, tokenizer=None, text_encoder=None, vae=None, transformer=transformer
    )
    pipe.set_progress_bar_config(disable=True)
    pipe.computes_on = device
    return pipe


def sample_video(
    pipe: SanaPipeline,
    *,
    prompt_embeds: Tensor,
    negative_embeds: Tensor,
    num_frames: int,
    height: int,
    width: int,
    steps: int,
    guidance: float,
    seed: int,
    math: Float32Math = STRICT,
    vae_precision: VaePrecision = "tf32",
    on_step: Callable[[int, int], None] | None = None,
    preview: Preview | None = None,
    first_frame: np.ndarray | None = None,
    given: GivenFrames | None = None,
) -> np.ndarray:
    """Sample one video: uint8 [F, H, W, 3], the same for the same seed; see `sample_latents` and `to_video`.

    It begins with `first_frame`, uint8 [H, W, 3], where that is there: image to video. Or it keeps what is `given`.
    """
    shape = Bucket(num_frames, height, width)  # raises for shapes that the VAE would floor
    first = None if first_frame is None else encode_first_frame(pipe.vae, first_frame, precision=vae_precision)
    held = None if given is None else hold(pipe.vae, given, shape, precision=vae_precision)
    with float32_math(math):
        latents = sample_latents(
            pipe,
            prompt_embeds=prompt_embeds,
            negative_embeds=negative_embeds,
            shape=shape,
            steps=steps,
            guidance=guidance,
            seed=seed,
            on_step=on_step,
            preview=preview,
            first_latents=first,
            held=held,
        )
    return to_video(pipe.vae, latents, precision=vae_precision)


@torch.no_grad()
def sample_latents(
    pipe: SanaPipeline,
    *,
    prompt_embeds: Tensor,
    negative_embeds: Tensor,
    shape: Bucket,
    steps: int,
    guidance: float,
    seed: int,
    on_step: Callable[[int, int], None] | None = None,
    preview: Preview | None = None,
    first_latents: Tensor | None = None,
    held: Held | None = None,
) -> Tensor:
    """Denoise one latent: float32 [1, 16, f, h, w], the same for the same seed.

    `prompt_embeds` [L, C] and `negative_embeds` [L', C] are real tokens only, from `text.TextEncoder.encode`.
    The first noise is that of `torch.Generator().manual_seed(seed)` on the CPU: the stock pipeline with this
    generator makes the same video. `guidance` 1 or less means none. `on_step(done, steps)` follows each step.
    `preview` is given what the sampler takes for the clean latent, now and then; it changes nothing.
    With `first_latents`, [1, 16, 1, h, w] of `encode_first_frame`, it is image to video: they are the first frame.
    What is `held` stays as it is.

    Raises:
        FloatingPointError: the sampled latents are not all finite.
    """
    embeds, mask = pad([prompt_embeds, negative_embeds])
    device = pipe.computes_on or pipe.vae.device  # offloaded, the transformer is in the host's memory between two calls
    embeds, mask = embeds.to(device), mask.to(device)

    if held is not None:
        kept = sample_held(
            pipe,
            held,
            embeds=embeds,
            mask=mask,
            steps=steps,
            guidance=guidance,
            seed=seed,
            device=device,
            on_step=on_step,
            preview=preview,
        )
        _require_finite(kept, "latents")
        return kept

    latents = _sample_stock(
        pipe,
        embeds,
        mask,
        shape=shape,
        steps=steps,
        guidance=guidance,
        seed=seed,
        on_step=on_step,
        preview=preview,
        first_latents=first_latents,
    )
    _require_finite(latents, "latents")
    return latents


def _sample_stock(
    pipe: SanaPipeline,
    embeds: Tensor,
    mask: Tensor,
    *,
    shape: Bucket,
    steps: int,
    guidance: float,
    seed: int,
    on_step: Callable[[int, int], None] | None,
    preview: Preview | None,
    first_latents: Tensor | None,
) -> Tensor:
    """Call the pipeline of diffusers, that for a first frame where its latents are given."""

    def report(_pipe: Any, index: int, _timestep: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        if on_step is not None:
            on_step(index + 1, steps)
        return tensors

    stock: SanaPipeline | SanaFirstFramePipeline = pipe
    image: dict[str, Tensor] = {}
    if first_latents is not None:
        stock = from_first_frame(pipe, first_latents)
        image["image"] = torch.zeros(1, 3, shape.height, shape.width)  # its latents are there already
    with observed(stock.scheduler, preview, first_latents, steps):
        latents: Tensor = stock(
            **image,
            prompt_embeds=embeds[:1],
            prompt_attention_mask=mask[:1],
            negative_prompt=None,  # the default "" is an error beside embeddings
            negative_prompt_embeds=embeds[1:],
            negative_prompt_attention_mask=mask[1:],
            frames=shape.num_frames,
            height=shape.height,
            width=shape.width,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=torch.Generator().manual_seed(seed),
            use_resolution_binning=False,  # it would change the size
            callback_on_step_end=report,
            output_type="latent",  # the pipeline's own decoding hides an out-of-memory error behind a NameError
        ).frames
    return latents


@torch.no_grad()
def to_video(vae: AutoencoderKLWan, latents: Tensor, *, precision: VaePrecision) -> np.ndarray:
    """Decode one normalised latent [1, 16, f, h, w] to uint8 [F, H, W, 3]; the VAE was loaded in this precision.

    Raises:
        FloatingPointError: the pixels are not all finite.
    """
    decoded = decode_latents(vae, latents, precision=precision)
    _require_finite(decoded, "decoded pixels")
    pixels = decoded[0].permute(1, 2, 3, 0)
    return ((pixels + 1) * 127.5).round().to(torch.uint8).cpu().numpy()


def _require_finite(numbers: Tensor, what: str) -> None:
    bad = int((~torch.isfinite(numbers)).sum())
    if bad:
        raise FloatingPointError(f"{bad} of {numbers.numel()} {what} are not finite")
