"""What the run keeps in storage: bytes by stage and kind, and bytes of a sample against the videos they came from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from sana.artifact import Artifact
from sana.data.columns import coded, columns
from sana.facts import TrainFacts
from sana.store import Store

_OFFSET_BITS = 40  # a shard is far smaller than a TiB


@dataclass(frozen=True)
class Kept:
    """Bytes of one kind that a stage's artifact keeps. `kind`: tensors, tables, model, checkpoints or other."""

    stage: str
    kind: str
    num_bytes: int
    num_files: int


@dataclass(frozen=True)
class Storage:
    """`num_samples`, `num_texts`: distinct tensors; a tensor of two samples is counted once."""

    kept: Sequence[Kept]
    num_samples: int
    sample_bytes: int
    num_texts: int
    text_bytes: int
    video_bytes: int  # of the videos that download kept

    @property
    def total(self) -> int:
        return sum(part.num_bytes for part in self.kept)


def storage(store: Store, artifacts: Mapping[str, Artifact]) -> Storage:
    """Add up what the artifacts refer to. Raises SanaError when an index is gone or damaged."""
    kept: list[Kept] = []
    tensors: dict[str, tuple[int, int]] = {}
    for name, artifact in artifacts.items():
        if "index.parquet" in artifact.files:
            index = columns(store, artifact, "index.parquet", ["shard", "offset", "num_bytes"], dictionary=["shard"])
            number, num_bytes, shards = _distinct(index)
            tensors[name] = (number, num_bytes)
            kept.append(Kept(name, "tensors", num_bytes, shards))
        kept += _files(artifact)
        if trained := TrainFacts.find(artifact):
            listed = store.list(f"train/{trained.trajectory}/checkpoints")
            kept.append(Kept(name, "checkpoints", sum(size for _, size in listed), len(listed)))
    video_bytes = 0
    if "download" in artifacts:
        video_bytes = int(
            columns(store, artifacts["download"], "clips.parquet", ["num_bytes"]).column(0).to_numpy().sum()
        )
    num_samples, sample_bytes = tensors.get("encode_latents", (0, 0))
    num_texts, text_bytes = tensors.get("encode_captions", (0, 0))
    return Storage(kept, num_samples, sample_bytes, num_texts, text_bytes, video_bytes)


def _distinct(index: pa.Table) -> tuple[int, int, int]:
    """Return (distinct tensors, their bytes, shards) of an index: equal content is stored once."""
    shards, shard = coded(index.column("shard"))
    place = (shard << _OFFSET_BITS) | index.column("offset").to_numpy()
    _, first = np.unique(place, return_index=True)
    return len(first), int(index.column("num_bytes").to_numpy()[first].sum()), len(shards)


def _files(artifact: Artifact) -> list[Kept]:
    sums: dict[str, list[int]] = {}
    for name, info in artifact.files.items():
        kind = "tables" if name.endswith(".parquet") else "model" if name.startswith("model/") else "other"
        sums.setdefault(kind, []).append(info.num_bytes)
    return [Kept(artifact.stage, kind, sum(sizes), len(sizes)) for kind, sizes in sorted(sums.items())]
