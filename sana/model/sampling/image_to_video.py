"""Image to video: the pipeline of diffusers, from the latent of a first frame.

Shapes in this module: F frames, H height, W width (pixels), f h w the same after the VAE; L caption tokens, C channels.
"""

from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, SanaImageToVideoPipeline, SanaVideoPipeline
from diffusers.utils.torch_utils import randn_tensor
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sana.bucket import LATENT_CHANNELS, Bucket
from sana.config.encode import VaePrecision
from sana.model.objective import flow_shift_of
from sana.model.precision import VAE_MATH, float32_math


class SanaFirstFramePipeline(SanaImageToVideoPipeline):  # type: ignore[misc]  # diffusers is untyped
    """SanaImageToVideoPipeline for sizes that are multiples of 16, whose first frame is encoded apart.

    The stock one needs multiples of 32, and encodes the frame by itself, in the precision of whoever calls it. Do not
    save it under this name, which nothing else knows.
    """

    computes_on: torch.device | None = None  # where it has no VAE to tell it
    first_latents: Tensor  # normalised float32 [1, 16, 1, h, w], set before it is called

    @property
    def _execution_device(self) -> torch.device:
        return self.computes_on or super()._execution_device

    def check_inputs(self, prompt: Any, image: Any, height: int, width: int, *rest: Any, **named: Any) -> None:
        if height % 16 or width % 16:
            raise ValueError(f"height and width must be multiples of 16 but are {height} and {width}")
        # every other check is the parent's; twice a multiple of 16 passes its check of 32
        super().check_inputs(prompt, image, 2 * height, 2 * width, *rest, **named)

    def prepare_latents(
        self,
        _image: Tensor,
        batch_size: int,
        _num_channels: int,
        height: int,
        width: int,
        num_frames: int,
        dtype: torch.dtype,
        device: torch.device,
        generator: torch.Generator,
        _latents: Tensor | None = None,
    ) -> Tensor:
        """Return the starting noise as the parent draws it, with the first latent frame in place."""
        shape = Bucket(num_frames, height, width).latent_shape
        noise: Tensor = randn_tensor((batch_size, *shape), generator=generator, device=device, dtype=dtype)
        noise[:, :, :1] = self.first_latents.to(device, dtype)
        return noise


@torch.no_grad()
def encode_first_frame(vae: AutoencoderKLWan, frame: NDArray[np.uint8], *, precision: VaePrecision) -> Tensor:
    """Encode a first frame, uint8 [H, W, 3], as the stock pipeline does: normalised float32 [1, 16, 1, h, w].

    The VAE is causal: but for the last bits of two divisions this is the first latent of every clip that begins so.
    """
    stock = SanaImageToVideoPipeline(None, None, vae, None, None)
    height, width = frame.shape[:2]
    pixels = stock.video_processor.preprocess(Image.fromarray(frame), height=height, width=width)
    with float32_math(VAE_MATH[precision]):
        # as the first and only latent frame of a video that is as long
        first: Tensor = stock.prepare_latents(
            pixels, 1, LATENT_CHANNELS, height, width, num_frames=1, dtype=torch.float32, device=vae.device
        )
    return first


def from_first_frame(pipe: SanaVideoPipeline, first_latents: Tensor) -> SanaFirstFramePipeline:
    """Return a pipeline of the parts of another one, with the scheduler that only steps the frames after the first.

    Its flow shift is that of the other's scheduler: by `from_config` of another class it would silently be 1.
    """
    made = SanaFirstFramePipeline(
        tokenizer=None,
        text_encoder=None,
        vae=pipe.vae,
        transformer=pipe.transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=flow_shift_of(pipe.scheduler.config, where="the model")),
    )
    made.set_progress_bar_config(disable=True)
    made.first_latents, made.computes_on = first_latents, pipe.computes_on
    return made
