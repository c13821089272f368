"""Samples and validation videos of a training, by step: addresses that name a record and a file in it, never a path."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from sana.artifact import Artifact, FileInfo
from sana.facts import SampleFacts
from sana.store import Store
from sana.training.validation.record import ValidationRecord, records

MAX_STEPS = 60  # whose videos are shown: the first, the newest, and evenly between
_DIGEST_CHARS = 12


@dataclass(frozen=True)
class Clip:
    """One video: what it is of, its step, and where a browser gets it. `address` is "" where it failed."""

    key: str  # unique on the page
    step: int
    words: str
    address: str
    num_bytes: int = 0
    failed: str = ""


@dataclass(frozen=True)
class Strip:
    """The videos of one prompt, in the order of their steps."""

    prompt: str
    clips: Sequence[Clip]


def artifact_address(artifact: Artifact, name: str) -> str:
    """Return the address of a file of an artifact."""
    digest = artifact.files[name].digest[:_DIGEST_CHARS]
    return f"/file/{quote(artifact.stage)}/{quote(artifact.fingerprint)}/{quote(digest)}/{quote(name)}"


def strips(
    store: Store, trajectory: str, samples: Iterable[tuple[int, Artifact]], *, at_most: int | None = None
) -> list[Strip]:
    """Return the videos of a training by prompt: those made while it trained, then those of its sample artifacts.

    `at_most`: the last step of the training, which others may have continued.
    """
    found: dict[str, list[Clip]] = {}
    for record in thinned_steps(list(records(store, trajectory, at_most=at_most))):
        for video in record.videos:
            file = record.files.get(video.file)
            if file is not None:
                words = f"{video.weights}, {video.bucket}, seed {video.seed}"
                key = f"{record.step}-{record.settings}-{video.file}"
                clip = Clip(key, record.step, words, _validation_address(record, video.file, file), file.num_bytes)
                found.setdefault(video.prompt, []).append(clip)
    for step, artifact in samples:
        for prompt, name in SampleFacts.of(artifact).videos.items():
            if name in artifact.files:
                words = f"sample, {artifact.config.get('weights', '')}"
                size = artifact.files[name].num_bytes
                clip = Clip(f"{artifact.fingerprint}-{name}", step, words, artifact_address(artifact, name), size)
                found.setdefault(prompt, []).append(clip)
    return [Strip(prompt, sorted(clips, key=lambda clip: clip.step)) for prompt, clips in found.items()]


def thinned_steps(found: Sequence[ValidationRecord]) -> list[ValidationRecord]:
    """Return those that made videos, of at most MAX_STEPS steps, the first and the last among them."""
    made = [record for record in found if not record.failed]
    steps = sorted({record.step for record in made})
    if len(steps) > MAX_STEPS:
        kept = {steps[round(place * (len(steps) - 1) / (MAX_STEPS - 1))] for place in range(MAX_STEPS)}
        made = [record for record in made if record.step in kept]
    return made


def _validation_address(record: ValidationRecord, name: str, file: FileInfo) -> str:
    digest = file.digest[:_DIGEST_CHARS]
    parts = (record.trajectory, str(record.step), record.settings, digest, name)
    return "/validation/" + "/".join(quote(part, safe="") for part in parts)
