"""Making the videos of a validation: denoised by a transformer as it is, decoded by a VAE that is loaded for it."""

import hashlib
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from sana.artifact import Artifact, FileInfo
from sana.bucket import Bucket
from sana.config.pipeline import Config
from sana.data.video.contact_sheet import SheetRow, sheet_row
from sana.data.video.first_frame import read_first_frame
from sana.data.video.video import write_mp4
from sana.model.device import is_out_of_memory
from sana.model.pipeline import SanaPipeline, denoiser, sample_latents, to_video
from sana.model.sampling.clean_estimate import Preview
from sana.model.sampling.image_to_video import encode_first_frame
from sana.model.vae import Vae, load_vae
from sana.runtime.specs import ModelSource
from sana.store import Store
from sana.training.validation.previews import Previews, open_previews
from sana.training.validation.record import ValidationVideo
from sana.training.validation.shots import Library, Shot, ShotList

_log = logging.getLogger(__name__)


class Made(NamedTuple):
    """A stored video: its row in the record, its file, and the frames that the contact sheet shows."""

    video: ValidationVideo
    file: FileInfo
    row: SheetRow


@dataclass(frozen=True)
class Maker:
    """Makes videos with the settings of a config, and stores them in `folder` of the store."""

    config: Config
    model: ModelSource
    library: Library
    store: Store
    latents: Artifact | None = None  # what a preview's map is fitted on

    def denoiser(self, transformer: nn.Module, device: torch.device) -> SanaPipeline:
        """Return what denoises with a transformer, with the weights that it has when it is called."""
        return denoiser(self.model.path, transformer, revision=self.model.revision, device=device)

    def previews(self, device: torch.device) -> Previews | None:
        """Return what makes pictures of a video on its way, if the config wants them."""
        every = self.config.train.validation.preview_every
        if not every:
            return None
        folder = Path(self.config.work_dir).absolute() / "previews" / "train"
        with ExitStack() as stack:
            return open_previews(
                self.config,
                self.store,
                self.latents,
                every=every,
                folder=folder,
                device=device,
                vae=lambda: stack.enter_context(self.vae(device)),
            )

    def first_latents(self, shots: Sequence[Shot], device: torch.device) -> dict[tuple[str, Bucket], Tensor]:
        """Return the latent of the picture that a prompt's videos begin with, by prompt and shape, on the CPU."""
        images, precision = self.config.sample.images, self.config.sample.vae_precision
        wanted = dict.fromkeys((shot.prompt, shot.bucket) for shot in shots if shot.begins_with_picture)
        if not wanted:
            return {}
        found = {}
        with self.vae(device) as vae:
            for name, bucket in wanted:
                where = f"sample.images.{name}"
                frame = read_first_frame(images[name], height=bucket.height, width=bucket.width, where=where)
                found[name, bucket] = encode_first_frame(vae, frame, precision=precision).cpu()
        return found

    def denoise(
        self,
        pipe: SanaPipeline,
        shot: Shot,
        shots: ShotList,
        *,
        on_step: Callable[[int, int], None],
        preview: Preview | None = None,
        first_latents: Tensor | None = None,
    ) -> Tensor:
        """Return the latent [1, 16, f, h, w] of a video, on the CPU; precision is the caller's context."""
        latents = sample_latents(
            pipe,
            prompt_embeds=self.library.prompts[shot.prompt],
            negative_embeds=self.library.negative,
            shape=shot.bucket,
            steps=shots.num_inference_steps,
            guidance=shots.guidance_scale,
            seed=shot.seed,
            on_step=on_step,
            preview=preview,
            first_latents=first_latents,
        )
        return latents.cpu()

    @contextmanager
    def vae(self, device: torch.device) -> Iterator[Vae]:
        """Load the VAE, and give its memory back afterwards."""
        vae = load_vae(
            self.model.path,
            revision=self.model.revision,
            precision=self.config.sample.vae_precision,
            device=device,
            tiling=self.config.train.validation.vae_tiling == "always",
        )
        try:
            yield vae
        finally:
            del vae
            free_cached(device)

    def decode(self, vae: Vae, latents: Tensor) -> tuple[np.ndarray, bool]:
        """Return uint8 [F, H, W, 3], and whether it was decoded in tiles: where the whole has no room, with `auto`."""
        precision = self.config.sample.vae_precision
        wanted = self.config.train.validation.vae_tiling
        if wanted != "auto":
            return to_video(vae, latents, precision=precision), wanted == "always"
        try:
            return to_video(vae, latents, precision=precision), False
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            line = (str(error).strip() or type(error).__name__).splitlines()[0]
        _log.warning("validation: a video is decoded in tiles, as the whole has no room (%s)", line)
        vae.clear_cache()
        free_cached(vae.device)
        vae.enable_tiling()
        try:
            return to_video(vae, latents, precision=precision), True
        finally:
            vae.disable_tiling()

    def keep(self, folder: str, shot: Shot, video: np.ndarray, *, tiled: bool) -> Made:
        """Store a video, uint8 [F, H, W, 3], as mp4 in a folder of the store."""
        name = f"{shot.name}.mp4"
        work_dir = Path(self.config.work_dir).absolute()
        with tempfile.TemporaryDirectory(dir=work_dir, prefix="validation-") as local:
            path = Path(local) / name
            write_mp4(path, video, fps=self.config.sample.fps)
            file = self.put(folder, name, path.read_bytes())
        row = ValidationVideo(
            file=name,
            prompt=shot.prompt,
            bucket=str(shot.bucket),
            seed=shot.seed,
            weights=shot.weights,
            digest=hashlib.blake2b(video.tobytes(), digest_size=16).hexdigest(),
            tiled=tiled,
        )
        label = f"{shot.prompt} (seed {shot.seed}): {self.library.texts[shot.prompt]}"
        return Made(row, file, sheet_row(label, video))

    def put(self, folder: str, name: str, data: bytes) -> FileInfo:
        """Store one file of a validation."""
        key = f"{folder}/{name}"
        self.store.put_if_absent(key, data)
        return FileInfo(key, len(data), hashlib.blake2b(data, digest_size=16).hexdigest())


def free_cached(device: torch.device) -> None:
    """Give memory that nothing uses back to the device: what follows has other shapes."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
