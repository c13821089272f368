"""One rank's part of a validation, cut into rounds: after each of them the ranks agree on whether to go on.

Ranks take the videos in turn. Each round is one video per rank; a rank that has none left repeats its last under
sharding, where all must compute together, and else waits.
"""

import io
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from sana.artifact import FileInfo
from sana.data.video.contact_sheet import contact_sheet
from sana.model.pipeline import SanaPipeline
from sana.model.sampling.clean_estimate import Preview
from sana.training.validation.maker import Made, Maker
from sana.training.validation.previews import Previews
from sana.training.validation.record import ValidationRecord, folder_of
from sana.training.validation.shots import Shot, ShotList, Weights

OnPreview = Callable[[Shot, int, int, Path], None]  # (video, sampler steps done, of so many, its picture)
OnStep = Callable[[str, int, int], None]  # (what is done, sampler steps or videos done, of so many)


class Ranks(Protocol):
    """The ranks that share the work."""

    rank: int
    num_ranks: int
    device: torch.device

    @property
    def is_sharded(self) -> bool: ...
    def autocast(self) -> AbstractContextManager[None]: ...


@dataclass
class RankWork:
    """What one rank makes; `made` fills up as `rounds` is taken to its end."""

    maker: Maker
    ranks: Ranks
    shots: ShotList
    trajectory: str
    step: int
    attempt: str = field(default_factory=lambda: uuid.uuid4().hex[:12])  # of the files: every rank may have its own
    made: list[Made] = field(default_factory=list)
    previews: Previews | None = None  # once rounds are taken, if the config wants them
    computes_together: bool = False  # while ranks with sharded weights wait for each other

    @property
    def folder(self) -> str:
        """Where this rank's files go."""
        return f"{folder_of(self.trajectory, self.step, self.shots.digest)}/{self.attempt}"

    def rounds(
        self,
        transformer: nn.Module,
        weights: Mapping[Weights, Callable[[], AbstractContextManager[object]]],
        on_step: OnStep,
        on_preview: OnPreview | None = None,
    ) -> Generator[None]:
        """Make this rank's videos; yields after each round, as often on every rank.

        `weights` gives for each set of weights a context within which the transformer has them.
        """
        latents: list[tuple[Shot, Tensor]] = []
        pipe, device = self.maker.denoiser(transformer, self.ranks.device), self.ranks.device
        first = self.maker.first_latents([shot for which in weights for shot in self.shots.of(which)], device)
        self.previews = self.maker.previews(device) if on_preview else None
        for which, swapped_in in weights.items():
            shots = self.shots.of(which)
            if not shots:
                continue
            with swapped_in():
                for shot, is_mine in self._turns(shots):
                    if is_mine or self.ranks.is_sharded:
                        shown = _preview(self.previews, shot, on_preview) if is_mine else None
                        latent = self._denoise(pipe, shot, on_step, shown, first.get((shot.prompt, shot.bucket)))
                        latents += [(shot, latent)] if is_mine else []
                    yield
        if latents:
            with self.maker.vae(device) as vae:
                for number, (shot, latent) in enumerate(latents, 1):
                    on_step("decoding video", number, len(latents))
                    video, tiled = self.maker.decode(vae, latent)
                    self.made.append(self.maker.keep(self.folder, shot, video, tiled=tiled))
        yield

    def _denoise(
        self, pipe: SanaPipeline, shot: Shot, on_step: OnStep, preview: Preview | None, first: Tensor | None
    ) -> Tensor:
        def report(done: int, total: int) -> None:
            on_step(f"{shot.name}, sampler step", done, total)

        self.computes_together = self.ranks.is_sharded
        with self.ranks.autocast():
            latent = self.maker.denoise(pipe, shot, self.shots, on_step=report, preview=preview, first_latents=first)
        self.computes_together = False
        return latent

    def _turns(self, shots: Sequence[Shot]) -> Iterator[tuple[Shot, bool]]:
        """Yield this rank's video of each round, and whether it is its own."""
        for start in range(0, len(shots), self.ranks.num_ranks):
            index = start + self.ranks.rank
            yield shots[min(index, len(shots) - 1)], index < len(shots)

    def record(self, made: Sequence[Made], seconds: float) -> ValidationRecord:
        """Draw and store the contact sheets of the videos of all ranks, and return the record that names all files."""
        made = sorted(made, key=lambda one: [shot.name + ".mp4" for shot in self.shots.shots].index(one.video.file))
        files: dict[str, FileInfo] = {one.video.file: one.file for one in made}
        sheets: dict[str, str] = {}
        for bucket, weights in dict.fromkeys((one.video.bucket, one.video.weights) for one in made):
            rows = [one.row for one in made if (one.video.bucket, one.video.weights) == (bucket, weights)]
            png, name = io.BytesIO(), f"sheet-{bucket}-{weights}.png"
            contact_sheet(rows).save(png, "PNG")
            files[name] = self.maker.put(self.folder, name, png.getvalue())
            sheets[f"{bucket}-{weights}"] = name
        if self.previews is not None and self.previews.fitted is not None:
            files["preview.json"] = self.maker.put(self.folder, "preview.json", self.previews.fitted.to_json())
        return ValidationRecord(
            trajectory=self.trajectory,
            step=self.step,
            settings=self.shots.digest,
            seconds=seconds,
            videos=tuple(one.video for one in made),
            sheets=sheets,
            files=files,
        )


def _preview(previews: Previews | None, shot: Shot, on_preview: OnPreview | None) -> Preview | None:
    if previews is None or on_preview is None:
        return None

    def show(done: int, steps: int, latents: Tensor) -> None:
        on_preview(shot, done, steps, previews.write(shot.name, done, steps, latents))

    return Preview(previews.every, show)
