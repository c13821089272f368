"""The videos that two or more sides made of one prompt with one seed, by the sample stage or by validation."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sana.artifact import Artifact
from sana.comparison.lineage import INDEX, Lineage
from sana.comparison.record import SampleRow, SampleVideo
from sana.data.columns import find_rows
from sana.facts import SampleFacts, TrainFacts
from sana.training.validation.record import records

MAX_ROWS = 64
Prompt = tuple[str, str, int]  # nickname, text ("": not known), seed
# of the sample stage's settings, those that are told where they differ
_SETTINGS = ("bucket", "weights", "num_inference_steps", "guidance_scale", "scheduler", "flow_shift")


@dataclass(frozen=True)
class VideoSource:
    """Where a side's videos are looked for: a training of its trajectory, and its step; None: there is none."""

    label: str
    lineage: Lineage
    trained: Artifact | None
    trajectory: str
    step: int | None


def sample_rows(sides: list[VideoSource]) -> tuple[list[SampleRow], list[str]]:
    """Return the prompts and seeds of which at least two sides have a video, and notes on settings that differ."""
    by_side = {side.label: dict(_videos(side)) for side in sides}
    found: dict[Prompt, list[SampleVideo]] = {}
    for videos in by_side.values():
        for prompt, video in videos.items():
            found.setdefault(prompt, []).append(video)
    rows = [SampleRow(*prompt, tuple(videos)) for prompt, videos in found.items() if len(videos) > 1]
    rows.sort(key=lambda row: (row.prompt, row.seed))
    notes = [f"only the first {MAX_ROWS} of {len(rows)} prompts and seeds are shown"] if len(rows) > MAX_ROWS else []
    without = [side.label for side in sides if not by_side[side.label]]
    if without:
        notes.append(f"no videos of {', '.join(without)}: its sample stage has not run, and it was not validated")
    elif not rows:
        notes.append("no prompt has a video of one seed on two sides: prompts or seeds were changed")
    return rows[:MAX_ROWS], notes + _setting_notes(sides)


def _videos(side: VideoSource) -> Iterator[tuple[Prompt, SampleVideo]]:
    """Yield the videos of a side: those of validation first, so that the sample stage's replace them."""
    store, sampled = side.lineage.store, _sampled(side)
    texts = {} if sampled is None else _texts(side.lineage, sampled)
    for record in records(store, side.trajectory, at_most=side.step) if side.trajectory else ():
        for video in record.videos if record.step == side.step else ():
            key = record.files[video.file].key
            made = SampleVideo(side.label, store.uri(key), key, video.bucket, video.weights, "validation")
            yield (video.prompt, texts.get(video.prompt, ""), video.seed), made
    if sampled is None or side.trained is None or TrainFacts.of(side.trained).step != side.step:
        return
    config: Any = sampled.config
    for nickname, file in SampleFacts.of(sampled).videos.items():
        if file in sampled.files:
            key = sampled.files[file].key
            bucket, weights = str(config.get("bucket", "")), str(config.get("weights", ""))
            made = SampleVideo(side.label, store.uri(key), key, bucket, weights, "sample")
            yield (nickname, texts.get(nickname, ""), int(config.get("seed", 0))), made


def _sampled(side: VideoSource) -> Artifact | None:
    """Return the newest artifact of the sample stage of what was trained."""
    if side.trained is None:
        return None
    return side.lineage.with_input(SampleFacts.STAGE, "weights", side.trained.content.get("weights"))


def _texts(lineage: Lineage, sampled: Artifact) -> dict[str, str]:
    """Return the prompts of a sample artifact by nickname; none where their table is gone."""
    captions = lineage.captions(sampled, "prompts", key="prompts")
    if captions is None:
        return {}
    rows = find_rows(lineage.store, captions, INDEX, ("name", "text"), key="role", among=["prompt"])
    return {row["name"]: row["text"] for row in rows}


def _setting_notes(sides: list[VideoSource]) -> list[str]:
    sampled = {side.label: made for side in sides if (made := _sampled(side)) is not None}
    notes = []
    for name in _SETTINGS:
        values = {label: made.config.get(name) for label, made in sampled.items()}
        if len({str(value) for value in values.values()}) > 1:
            notes.append(f"videos: {name} is {', '.join(f'{value} of {label}' for label, value in values.items())}")
    return notes
