"""Previews of a video that is being made: pictures of what the sampler takes for its clean latent, every so many steps.

By TAEHV where the user has its weights, else by a linear map that is fitted on clips of the store, once.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from sana.artifact import Artifact, digest_of
from sana.atomic_io import atomic_write
from sana.config.pipeline import Config
from sana.data.shards.shard import Location, read_tensor
from sana.data.tables import read_table
from sana.data.video.contact_sheet import contact_sheet, sheet_row
from sana.errors import ConfigError
from sana.model.sampling.linear_preview import LinearPreview, fit_linear_preview
from sana.model.sampling.taehv import load_taehv
from sana.model.vae import Vae, decode_latents
from sana.record import DamagedRecordError
from sana.store import Store

NUM_CLIPS = 8  # of each split
NUM_LATENT_FRAMES = 2  # of each clip: the VAE is causal, so the first frames are the same without the rest
_SHOWN_WIDTH = 320

Decode = Callable[[Tensor], NDArray[np.uint8]]  # of normalised latents [1, 16, f, h, w]: uint8 [n, H, W, 3]
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Previews:
    """Writes a picture every so many sampler steps to a folder, and says that it is there."""

    decode: Decode
    every: int
    folder: Path
    fitted: LinearPreview | None = None

    def write(self, name: str, done: int, steps: int, latents: Tensor) -> Path:
        """Write the picture of a video after `done` of its sampler steps; returns its path."""
        frames = self.decode(latents)
        if (factor := _SHOWN_WIDTH // frames.shape[2]) > 1:
            frames = frames.repeat(factor, axis=1).repeat(factor, axis=2)
        path = self.folder / name / f"{done:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temp:
            contact_sheet([sheet_row(f"{name}, step {done} of {steps}", frames)]).save(temp, "PNG")
        return path


def open_previews(
    config: Config,
    store: Store,
    latents: Artifact | None,
    *,
    every: int,
    folder: Path,
    device: torch.device,
    vae: Callable[[], Vae],
) -> Previews:
    """Return what makes previews; `vae` is called, for a moment, where a linear map has to be fitted on `latents`.

    Raises:
        ConfigError: sample.preview_weights cannot be loaded, or there is nothing to fit a map on.
    """
    path = config.sample.preview_weights
    if path is not None:
        return Previews(load_taehv(path, device=device, where="sample.preview_weights").decode, every, folder)
    if latents is None:
        raise ConfigError(
            "previews without sample.preview_weights are a linear map that is fitted on encoded clips, and there are "
            "none of this config; encode them, or name taew2_1 weights"
        )
    fitted = linear_preview(config, store, latents, vae)
    return Previews(fitted.decode, every, folder, fitted)


def linear_preview(config: Config, store: Store, latents: Artifact, vae: Callable[[], Vae]) -> LinearPreview:
    """Return the map of these latents: fitted once a work_dir, on train clips, and measured on held-out ones."""
    path = Path(config.work_dir).absolute() / "cache" / "previews" / f"{digest_of(dict(latents.content))[:16]}.json"
    if path.exists():
        try:
            return LinearPreview.load(path)
        except DamagedRecordError as error:
            _log.warning("the preview's map is fitted again: %s", error)
    rows = read_table(store, latents, "index.parquet")
    rows = rows.select(["split", "sample_id", *Location.__dataclass_fields__])
    loaded = vae()
    pairs = {}
    for split in ("train", "eval"):
        of_split = rows.filter(pc.equal(rows["split"], split)).sort_by("sample_id")
        last = max(len(of_split) - 1, 0)
        chosen = sorted({round(i * last / (NUM_CLIPS - 1)) for i in range(NUM_CLIPS)}) if len(of_split) else []
        pairs[split] = [_pair(store, of_split.slice(row, 1).to_pylist()[0], loaded, config) for row in chosen]
    made = fit_linear_preview(pairs["train"], pairs["eval"])
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temp:
        temp.write_bytes(made.to_json())
    _log.info(
        "previews: a linear map of latents to colours, fitted on %d clips: PSNR %.1f dB, r2 %.2f on %d held-out clips",
        made.num_clips, made.psnr_db, made.r2, made.num_held_out,
    )  # fmt: skip
    return made


def _pair(store: Store, row: dict[str, object], vae: Vae, config: Config) -> tuple[Tensor, Tensor]:
    latent = read_tensor(store, Location.of(row)).float()[:, :NUM_LATENT_FRAMES]
    return latent, decode_latents(vae, latent[None], precision=config.sample.vae_precision)[0]
