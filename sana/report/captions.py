"""What the captions are: how long in words and tokens, how many a clip has, and a few of them to read."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sana.artifact import Artifact
from sana.data.columns import batches, find_rows
from sana.facts import DownloadFacts
from sana.report.histogram import Histogram, histogram
from sana.store import Store

NUM_EXAMPLES = 5


@dataclass(frozen=True)
class Captions:
    """Of the clips that download kept. `examples`: (path of the video, its captions).

    `num_dropped`: alternatives that were no text; `num_damaged`: captions with U+FFFD, for bytes that were lost.
    """

    num_clips: int
    num_captions: int
    num_with_alternatives: int
    num_dropped: int
    num_damaged: int
    words: Histogram | None
    examples: Sequence[tuple[str, Sequence[str]]]


@dataclass(frozen=True)
class Tokens:
    """Of the captions of samples, as encoded: tokens kept, and how many captions were cut at `max_tokens`."""

    num_captions: int
    num_truncated: int
    max_tokens: int
    kept: Histogram | None


def captions(store: Store, download: Artifact) -> Captions:
    """Read the captions of all clips. Raises SanaError when a table is gone or damaged.

    The examples are those with the least clip_ids: these are digests, so a random sample, always the same.
    """
    words: list[np.ndarray] = []
    num_clips, several = 0, 0
    first: list[dict[str, list[str]]] = []
    for batch in batches(store, download, "captions.parquet", ["clip_id", "captions"]):
        texts = batch.column("captions")
        num_clips += batch.num_rows
        several += int(pc.sum(pc.greater(pc.list_value_length(texts), 1)).as_py() or 0)
        words.append(_num_words(pc.list_flatten(texts)))
        least = pc.select_k_unstable(batch, k=NUM_EXAMPLES, sort_keys=[("clip_id", "ascending")])
        first = sorted(first + batch.take(least).to_pylist(), key=lambda row: row["clip_id"])[:NUM_EXAMPLES]
    lengths = np.concatenate(words) if words else np.zeros(0)
    ids = [str(row["clip_id"]) for row in first]
    paths = {
        str(row["clip_id"]): str(row["path"])
        for row in find_rows(store, download, "clips.parquet", ["path"], key="clip_id", among=ids)
    }
    counted = DownloadFacts.of(download).captions.values()  # none in an artifact of version 2
    return Captions(
        num_clips=num_clips,
        num_captions=len(lengths),
        num_with_alternatives=several,
        num_dropped=sum(of.dropped for of in counted),
        num_damaged=sum(of.damaged for of in counted),
        words=histogram(lengths, whole=True),
        examples=[(paths.get(clip_id, clip_id), row["captions"]) for clip_id, row in zip(ids, first, strict=True)],
    )


def _num_words(texts: pa.Array) -> np.ndarray:
    """Count the words of each text: what is between ASCII white space."""
    trimmed = pc.ascii_trim_whitespace(texts)  # or a space at either end makes an empty word
    words = pc.list_value_length(pc.ascii_split_whitespace(trimmed)).to_numpy()
    return np.where(pc.binary_length(trimmed).to_numpy() == 0, 0, words)


def tokens(store: Store, encoded: Artifact) -> Tokens:
    """Read how long the embeddings of the clips' captions are. Raises SanaError when the index is gone or damaged."""
    kept: list[np.ndarray] = []
    truncated = 0
    for batch in batches(store, encoded, "index.parquet", ["role", "truncated", "shape"]):
        of_clips = batch.filter(pc.is_in(batch.column("role"), pa.array(["train", "eval"])))
        if of_clips.num_rows:
            kept.append(pc.list_element(of_clips.column("shape"), 0).to_numpy())
            truncated += int(pc.sum(of_clips.column("truncated")).as_py())
    lengths = np.concatenate(kept) if kept else np.zeros(0)
    max_tokens = encoded.config["max_tokens"]
    assert isinstance(max_tokens, int)
    return Tokens(len(lengths), truncated, max_tokens, histogram(lengths, whole=True))
