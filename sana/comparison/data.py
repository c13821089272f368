"""Which clips two trainings differ in: added, removed, or changed in content, cut or caption.

Ids are read as 64-bit hashes, so that ten million clips a side fit: of two other clips that share one (1 in 10^5 sides
of that size) one would be missed. Only the clips that are named are read as texts.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sana.artifact import Artifact
from sana.comparison.lineage import INDEX, Lineage
from sana.data.columns import batches, find_rows
from sana.record import Record

MAX_NAMED = 8  # clips of each kind that are named
_ID_BYTES = 64

Hashes = NDArray[np.uint64]


@dataclass(frozen=True)
class NamedClip(Record):
    """A clip: its data set, and its path there, or its id where no table has the path any more."""

    dataset: str
    path: str


@dataclass(frozen=True)
class ClipCounts(Record):
    """How many clips differ."""

    added: int
    removed: int
    changed: int


@dataclass(frozen=True)
class ClipDifference(Record):
    """The clips of one split: numbers on both sides, and which of B are not those of A; the first few are named.

    `changed`: the video's content, its windows or a caption is another. `datasets` has those that differ.
    """

    num_a: int
    num_b: int
    added: int
    removed: int
    changed: int
    datasets: Mapping[str, ClipCounts] = field(default_factory=dict)
    first_added: tuple[NamedClip, ...] = ()
    first_removed: tuple[NamedClip, ...] = ()
    first_changed: tuple[NamedClip, ...] = ()

    @property
    def is_same(self) -> bool:
        return not (self.added or self.removed or self.changed)


@dataclass(frozen=True)
class DataSide:
    """What one side read: the tables of latents and of captions of a split."""

    lineage: Lineage
    latents: Artifact
    captions: Artifact | None
    split: str


def num_trained_on(lineage: Lineage, latents: Artifact, clip_ids: Collection[str]) -> int:
    """Return how many of some few clips are in the train split of what encode_latents made."""
    among, found = pa.array(sorted(clip_ids), pa.string()), set[str]()
    for batch in _of_split(DataSide(lineage, latents, None, "train"), ("clip_id",)):
        found.update(batch.column("clip_id").filter(pc.is_in(batch.column("clip_id"), among)).to_pylist())
    return len(found)


@dataclass(frozen=True)
class _Clips:
    """The clips of a side, sorted by hash: what each was made of, and which of `datasets` it is of."""

    ids: Hashes
    made_of: Hashes
    dataset: NDArray[np.int64]
    datasets: list[str]


def clip_difference(a: DataSide, b: DataSide) -> ClipDifference:
    """Return how the clips of B differ from those of A.

    Raises:
        SanaError: a table is gone or damaged.
    """
    of_a, of_b = _clips(a), _clips(b)
    if a.captions is not None and b.captions is not None and a.captions.content != b.captions.content:
        of_a, of_b = _with_captions(a, of_a), _with_captions(b, of_b)
    added = ~np.isin(of_b.ids, of_a.ids, assume_unique=True)
    removed = ~np.isin(of_a.ids, of_b.ids, assume_unique=True)
    _, at_a, at_b = np.intersect1d(of_a.ids, of_b.ids, assume_unique=True, return_indices=True)
    changed = np.zeros(len(of_b.ids), dtype=np.bool_)
    changed[at_b] = of_a.made_of[at_a] != of_b.made_of[at_b]
    return ClipDifference(
        num_a=len(of_a.ids),
        num_b=len(of_b.ids),
        added=int(added.sum()),
        removed=int(removed.sum()),
        changed=int(changed.sum()),
        datasets=_by_dataset(((of_b, added), (of_a, removed), (of_b, changed))),
        first_added=_named(b, of_b.ids[added]),
        first_removed=_named(a, of_a.ids[removed]),
        first_changed=_named(b, of_b.ids[changed]),
    )


def _by_dataset(found: tuple[tuple[_Clips, NDArray[np.bool_]], ...]) -> dict[str, ClipCounts]:
    counts: dict[str, list[int]] = {}
    for place, (clips, chosen) in enumerate(found):
        numbers = np.bincount(clips.dataset[chosen], minlength=len(clips.datasets))
        for name, number in zip(clips.datasets, numbers.tolist(), strict=True):
            if number:
                counts.setdefault(name, [0, 0, 0])[place] = number
    return {name: ClipCounts(*each) for name, each in sorted(counts.items())}


def _clips(side: DataSide) -> _Clips:
    ids, keys, datasets, names = [], [], [], dict[str, int]()
    for batch in _of_split(side, ("clip_id", "dataset", "sample_key")):
        ids.append(hashes(batch.column("clip_id")))
        keys.append(hashes(batch.column("sample_key")))
        coded = batch.column("dataset").dictionary_encode()
        numbers = np.array([names.setdefault(name, len(names)) for name in coded.dictionary.to_pylist()], np.int64)
        datasets.append(numbers[coded.indices.to_numpy()])
    distinct, first, which = np.unique(_joined(ids), return_index=True, return_inverse=True)
    made_of = np.zeros(len(distinct), dtype=np.uint64)
    np.add.at(made_of, which, _joined(keys))  # of its windows, in any order; a sum wraps
    dataset = np.concatenate(datasets)[first] if datasets else np.zeros(0, np.int64)
    return _Clips(distinct, made_of, dataset, list(names))


def _with_captions(side: DataSide, clips: _Clips) -> _Clips:
    assert side.captions is not None
    made_of = clips.made_of.copy()
    for batch in batches(side.lineage.store, side.captions, INDEX, ("role", "name", "position", "text_key")):
        names = hashes(batch.column("name"))
        at = np.searchsorted(clips.ids, names).clip(max=max(len(clips.ids) - 1, 0))
        known = clips.ids[at] == names if len(clips.ids) else np.zeros(len(names), np.bool_)
        known &= np.array(batch.column("role").to_pylist()) == side.split
        positions = batch.column("position").to_numpy().astype(np.uint64)
        texts = _mixed(hashes(batch.column("text_key")) + positions)  # the first caption is the one evaluated
        np.add.at(made_of, at[known], texts[known])
    return _Clips(clips.ids, made_of, clips.dataset, clips.datasets)


def _of_split(side: DataSide, columns: tuple[str, ...]) -> Iterator[pa.RecordBatch]:
    for batch in batches(side.lineage.store, side.latents, INDEX, (*columns, "split")):
        chosen = pa.array(np.array(batch.column("split").to_pylist(), dtype=object) == side.split, pa.bool_())
        yield batch.filter(chosen)


def _named(side: DataSide, chosen: Hashes) -> tuple[NamedClip, ...]:
    """Name the first clips by data set and path: the table of windows knows the path, that of latents the id."""
    wanted, found = chosen[:MAX_NAMED], dict[str, str]()
    if not len(wanted):
        return ()
    for batch in _of_split(side, ("clip_id", "dataset")):
        is_wanted = pa.array(np.isin(hashes(batch.column("clip_id")), wanted))
        found |= {row["clip_id"]: row["dataset"] for row in batch.filter(is_wanted).to_pylist()}
        if len(found) >= len(wanted):
            break
    paths: dict[str, str] = {}
    if (clips := side.lineage.clips(side.latents)) is not None and "clips.parquet" in clips.files:
        rows = find_rows(side.lineage.store, clips, "clips.parquet", ("path",), key="clip_id", among=list(found))
        paths = {row["clip_id"]: row["path"] for row in rows}
    named = [NamedClip(dataset, paths.get(clip_id, clip_id)) for clip_id, dataset in found.items()]
    return tuple(sorted(named, key=lambda clip: (clip.dataset, clip.path)))


def hashes(column: pa.Array) -> Hashes:
    """Return a 64-bit hash of each text, of which the first 64 bytes count: uint64 [rows]."""
    texts = np.array(column.to_pylist(), dtype=f"S{_ID_BYTES}")
    words = texts.view(np.uint64).reshape(len(texts), _ID_BYTES // 8)
    value = np.zeros(len(texts), dtype=np.uint64)
    for place in range(words.shape[1]):
        value = _mixed(value ^ words[:, place])
    return value


def _mixed(value: Hashes) -> Hashes:
    """Mix the bits of each number, as the generator splitmix64 does."""
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def _joined(parts: list[Hashes]) -> Hashes:
    return np.concatenate(parts) if parts else np.zeros(0, np.uint64)
