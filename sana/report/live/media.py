"""Samples and validation videos of a training, by step: addresses that name a record and a file in it, never a path."""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from sana.artifact import Artifact, FileInfo
from sana.errors import SanaError
from sana.facts import SampleFacts
from sana.store import Store
from sana.store_errors import StoreError
from sana.training.validation.record import RESULT, ValidationRecord, all_of, read

MAX_STEPS = 60  # whose videos are shown: the first, the newest, and evenly between
_DIGEST_CHARS = 12
_MAX_RECORDS = 5000


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


class ValidationCache:
    """The validations of the trainings that were looked at last: a record never changes, so it is read once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._kept: OrderedDict[str, ValidationRecord] = OrderedDict()

    def records(self, trajectory: str, *, at_most: int | None) -> list[ValidationRecord]:
        """Return those that made videos, in the order of their steps; a damaged one is left out."""
        found = []
        for key, _ in self._store.list(all_of(trajectory)):
            if not key.endswith(f"/{RESULT}"):
                continue
            if key not in self._kept:
                try:
                    self._kept[key] = read(self._store, key)
                except StoreError:
                    raise
                except SanaError:
                    continue
            self._kept.move_to_end(key)
            found.append(self._kept[key])
        while len(self._kept) > _MAX_RECORDS:
            self._kept.popitem(last=False)
        return [record for record in found if at_most is None or record.step <= at_most]


def strips(
    cache: ValidationCache, trajectory: str, samples: Iterable[tuple[int, Artifact]], *, at_most: int | None = None
) -> list[Strip]:
    """Return the videos of a training by prompt: those made while it trained, then those of its sample artifacts.

    `at_most`: the last step of the training, which others may have continued.
    """
    found: dict[str, list[Clip]] = {}
    for record in thinned_steps(cache.records(trajectory, at_most=at_most)):
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
