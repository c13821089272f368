"""The videos that a training made on its way, by prompt and step: inside the page as far as its bytes allow.

What does not fit is a picture of its first frame with its address.
"""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sana.artifact import Artifact, FileInfo
from sana.errors import SanaError
from sana.facts import SampleFacts
from sana.report.training.posters import Posters
from sana.store import Store
from sana.training.validation import record as validation

MAX_VIDEO_BYTES = 22 << 20  # of all videos of a page: 30 MB as base64
MAX_PROMPTS, MAX_STEPS = 12, 6


@dataclass(frozen=True)
class Clip:
    """One video: of which step, whether the stage sample made it, its address; by value the video or a picture of it,
    as base64, or neither, and `why` not.
    """

    step: int
    final: bool
    uri: str
    num_bytes: int
    mp4: str = ""
    jpeg: str = ""
    why: str = ""


@dataclass(frozen=True)
class Strip:
    """The videos of one prompt, shape, seed and kind of weights, by step."""

    prompt: str
    text: str
    made: str  # its shape, seed and weights, in words
    clips: Sequence[Clip]


@dataclass(frozen=True)
class Clips:
    """`num_steps`: steps with videos, of which at most MAX_STEPS are shown; `num_left_out`: prompts that are not."""

    strips: Sequence[Strip]
    num_steps: int
    num_left_out: int
    num_inside: int


@dataclass(frozen=True)
class _Found:
    step: int
    final: bool
    file: FileInfo


_Key = tuple[str, str]  # nickname; in words, how it was made


def clips(
    store: Store,
    trajectory: str,
    sample: Artifact | None,
    *,
    step: int,
    texts: dict[str, str],
    max_bytes: int = MAX_VIDEO_BYTES,
) -> Clips | None:
    """Return the videos of a training, of validations and of the stage sample; None: there are none.

    Args:
        step: of the weights that the stage sample used.
        texts: of the prompts, by nickname, as far as they are known.
        max_bytes: of all videos that are in the page by value.
    """
    found = _validations(store, trajectory, at_most=step if sample else None)
    if sample is not None:
        for nickname, name in SampleFacts.of(sample).videos.items():
            found.setdefault((nickname, _how(sample)), []).append(_Found(step, True, sample.files[name]))
    if not found:
        return None
    keys = sorted(found)[:MAX_PROMPTS]
    chosen = {key: _spread(found[key]) for key in keys}
    inside = _inside(chosen, max_bytes)
    posters = Posters(store)
    strips = [
        Strip(key[0], texts.get(key[0], ""), key[1], [_clip(store, one, inside, posters) for one in chosen[key]])
        for key in keys
    ]
    steps = {one.step for every in found.values() for one in every}
    return Clips(strips, len(steps), len(found) - len(keys), len(inside))


def _validations(store: Store, trajectory: str, *, at_most: int | None) -> dict[_Key, list[_Found]]:
    """Return the videos of the validations with the settings of the newest one: others are not comparable."""
    records = [one for one in validation.records(store, trajectory, at_most=at_most) if not one.failed]
    found: dict[_Key, list[_Found]] = {}
    for record in records:
        if record.settings != records[-1].settings:
            continue
        for video in record.videos:
            how = f"{video.bucket}, seed {video.seed}, {video.weights}"
            found.setdefault((video.prompt, how), []).append(_Found(record.step, False, record.files[video.file]))
    return found


def _how(sample: Artifact) -> str:
    config = sample.config
    return f"{config.get('bucket')}, seed {config.get('seed')}, {config.get('weights')}"


def _spread(found: Sequence[_Found]) -> list[_Found]:
    """Return at most MAX_STEPS of a prompt's videos: the first, the last, and evenly between."""
    ordered = sorted(found, key=lambda one: (one.step, one.final))
    if len(ordered) <= MAX_STEPS:
        return ordered
    places = {round(i * (len(ordered) - 1) / (MAX_STEPS - 1)) for i in range(MAX_STEPS)}
    return [ordered[place] for place in sorted(places)]


def _inside(chosen: dict[_Key, list[_Found]], max_bytes: int) -> set[str]:
    """Return the keys of the videos that are put into the page: of each prompt the last first, then the first."""
    rounds: dict[int, list[FileInfo]] = {}
    for found in chosen.values():
        order = [found[-1], *found[:1], *found[1:-1]] if len(found) > 1 else found
        for turn, one in enumerate(order):
            rounds.setdefault(turn, []).append(one.file)
    left, kept = max_bytes, set[str]()
    for turn in sorted(rounds):
        for file in rounds[turn]:
            if file.num_bytes <= left:
                left -= file.num_bytes
                kept.add(file.key)
    return kept


def _clip(store: Store, found: _Found, inside: Iterable[str], posters: Posters) -> Clip:
    key, made = found.file.key, (found.step, found.final, store.uri(found.file.key), found.file.num_bytes)
    try:
        if key in inside:
            return Clip(*made, mp4=base64.b64encode(store.read(key)).decode())
        return Clip(*made, jpeg=next(iter(posters.of(found.file)), ""), why="too large for this page")
    except FileNotFoundError:
        return Clip(*made, why="it is gone")
    except (SanaError, OSError) as error:
        return Clip(*made, why=f"it cannot be read: {error}")
