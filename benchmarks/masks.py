"""What do masks cost: the stage, a window of 81x480x832, and the loss, a step of one such sample? CPU seconds.

python -m benchmarks.masks
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from sana.bucket import Bucket
from sana.config.training.train import TrainConfig
from sana.data.video.frames import read_window
from sana.data.video.masks import read_masks
from sana.data.video.video import write_mp4
from sana.training.batch import BatchSlot, MicroBatch, pad_captions
from sana.training.objectives.masked_loss import LOSS_MASK
from sana.training.objectives.registry import build_objective

BUCKET, REPEATS = Bucket(81, 480, 832), 5


class _Scale(nn.Module):
    """Stands for the model: a product with a number, so that all else is the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(0.5))

    def forward(self, noisy: torch.Tensor, **_: Any) -> tuple[torch.Tensor]:
        return (self.factor * noisy,)


def _cpu(work: Callable[[], object]) -> float:
    times = []
    for _ in range(REPEATS):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return min(times)


def stage(folder: Path) -> dict[str, float]:
    """Return CPU seconds of a window: its frames decoded, and its mask made of a video and of a picture."""
    frames = np.zeros((BUCKET.num_frames, BUCKET.height, BUCKET.width, 3), np.uint8)
    for number, frame in enumerate(frames):
        frame[100:400, 5 * number : 5 * number + 300] = 255
    video, picture = folder / "mask.mp4", folder / "mask.png"
    write_mp4(video, frames, fps=16)
    Image.fromarray(frames[0]).save(picture)
    window = {
        "digest": "", "bucket": str(BUCKET), "start_frame": 0, "window_fps": 0.0, "treatment": "", "crop_left": 0.0,
        "crop_top": 0.0, "crop_width": 832.0, "crop_height": 480.0, "width": 832, "height": 480, "num_frames": 81,
        "fps": 16.0, "duration_s": 81 / 16, "inverted": False, "keep_empty": False,
    }  # fmt: skip
    return {
        "the clip's own frames, decoded": _cpu(lambda: read_window(video, window)),
        "a mask that is a video": _cpu(lambda: list(read_masks(video, [window]))),
        "a mask that is a picture": _cpu(lambda: list(read_masks(picture, [window]))),
    }


def loss(**settings: Any) -> float:
    """Return CPU seconds of drawing, the loss and its gradient for one sample, without the model."""
    objective = build_objective(TrainConfig(max_steps=1, global_batch_size=1, **settings), flow_shift=3.0)
    generator, model = torch.Generator().manual_seed(0), _Scale()
    latents = torch.randn((1, *BUCKET.latent_shape), generator=generator)
    mask = torch.rand((1, 1, *BUCKET.latent_shape[1:]), generator=generator).half()
    captions = pad_captions([torch.ones(32, 4)], "batch")

    def step() -> None:
        tensors = {"latents": latents, LOSS_MASK: mask}
        drawn = objective.draw([BatchSlot(0, 0, row=0)], tensors)
        objective.loss(model, MicroBatch({**tensors, **drawn, **captions})).per_sample.sum().backward()

    return _cpu(step)


def main() -> None:
    torch.set_num_threads(1)
    print(f"| {BUCKET}, one window or sample | CPU ms |\n|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        rows = stage(Path(folder))
    rows["noise, loss and gradient, without the model"] = loss()
    rows["the same, masked"] = loss(masked_loss={"probability": 0.9})
    for name, seconds in rows.items():
        print(f"| {name} | {1e3 * seconds:.0f} |")


if __name__ == "__main__":
    main()
