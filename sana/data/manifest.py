"""Manifests: the tables of clips that flow between stages, one declared Arrow schema each.

A stage adds columns or rows of its own table; none edits a row of another's. Clips in = clips out + clips refused.
"""

import hashlib
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sana.artifact import Artifact
from sana.config.pipeline import Config
from sana.errors import RefusedError, SanaError
from sana.store import Store


class Reason(StrEnum):
    """Why a clip was refused: a closed list."""

    NO_CAPTION = "no_caption"  # no text beside the video, or an empty one
    EMPTY = "empty"  # zero bytes
    UNREADABLE = "unreadable"  # the container or the codec cannot be opened
    NO_VIDEO = "no_video"  # no video stream
    TRUNCATED = "truncated"  # the header promises more frames than there are
    TOO_SHORT = "too_short"  # fewer frames than the shortest bucket needs
    TOO_SMALL = "too_small"  # would have to be upscaled
    KILLED_WORKER = "killed_worker"  # ended the process that decoded it, twice


def column(name: str, kind: pa.DataType, about: str) -> pa.Field:
    return pa.field(name, kind, nullable=False, metadata={"about": about})


CLIPS = pa.schema(
    [
        column("clip_id", pa.string(), "digest of data set id and relative path"),
        column("dataset", pa.string(), "id of the data set in the config"),
        column("source_id", pa.string(), "what the clip was cut from; one source is never in both splits"),
        column("path", pa.string(), "path of the video relative to the data set's source"),
        column("num_bytes", pa.int64(), "size of the video file, bytes"),
        column("digest", pa.string(), "digest of the video file's content"),
    ]
)
CAPTIONS = pa.schema(
    [
        column("clip_id", pa.string(), "the clip it describes"),
        column("captions", pa.list_(pa.string()), "alternatives; one is drawn per training step"),
    ]
)
VIDEO_FACTS = [
    column("width", pa.int32(), "display width, pixels, after rotation and sample aspect"),
    column("height", pa.int32(), "display height, pixels, after rotation and sample aspect"),
    column("rotation_deg", pa.int32(), "clockwise turn for display: 0, 90, 180 or 270"),
    column("sample_aspect", pa.float64(), "width of a stored pixel over its height"),
    column("fps", pa.float64(), "average source rate, frames per second"),
    column("num_frames", pa.int32(), "frames in the file, counted"),
    column("duration_s", pa.float64(), "duration, seconds"),
    column("codec", pa.string(), "codec of the video stream"),
    column("pixel_format", pa.string(), "pixel format of the video stream"),
    column("bit_depth", pa.int32(), "bits per component"),
]
PROBED = pa.schema([*CLIPS, *VIDEO_FACTS])
# Pool rows: one per video content that was ever opened, refused ones included.
PROBES = pa.schema(
    [
        column("digest", pa.string(), "digest of the video file's content"),
        column("reason", pa.string(), "empty, or why the video was refused"),
        column("detail", pa.string(), "empty, or what was found"),
        *VIDEO_FACTS,
    ]
)
WINDOWS = pa.schema(
    [
        *PROBED,
        column("sample_id", pa.string(), "clip_id and first frame of the window"),
        column("bucket", pa.string(), "frames x height x width the window is cut to"),
        column("start_frame", pa.int32(), "first frame of the window, at the source rate"),
        column("split", pa.string(), "train or eval, by source_id"),
    ]
)
REJECTS = pa.schema(
    [
        column("clip_id", pa.string(), "the clip"),
        column("dataset", pa.string(), "id of the data set in the config"),
        column("path", pa.string(), "path of the video relative to the data set's source"),
        column("stage", pa.string(), "stage that refused it"),
        column("reason", pa.string(), "one of a closed list"),
        column("detail", pa.string(), "what was found, in words"),
    ]
)

# Where one encoded tensor is: columns of every index row.
LOCATION = [
    column("shard", pa.string(), "safetensors file, key relative to the root"),
    column("offset", pa.int64(), "first byte of the tensor in the shard"),
    column("num_bytes", pa.int64(), "bytes of the tensor"),
    column("digest", pa.string(), "xxh3-128 of the tensor's bytes"),
    column("dtype", pa.string(), "fp32, fp16 or bf16"),
    column("shape", pa.list_(pa.int64()), "shape of the tensor"),
]
# Pool rows: one per encoded text, one per encoded (or refused) clip window.
TEXTS = pa.schema(
    [
        column("text_key", pa.string(), "digest of the text and its template"),
        column("text", pa.string(), "the text before the template"),
        column("template", pa.string(), "instruction put before it: video, image or none"),
        column("truncated", pa.bool_(), "true when tokens were cut off"),
        *LOCATION,
        column("made_by", pa.string(), "device and library versions that made it"),
    ]
)
LATENTS = pa.schema(
    [
        column("sample_key", pa.string(), "digest of video content, window and bucket"),
        column("reason", pa.string(), "empty, or why the window could not be encoded"),
        column("detail", pa.string(), "empty, or what was found"),
        *LOCATION,
        column("made_by", pa.string(), "device and library versions that made it"),
    ]
)
# Index rows of artifacts: what training reads.
LATENT_INDEX = pa.schema(
    [
        column("sample_id", pa.string(), "clip_id and first frame of the window"),
        column("clip_id", pa.string(), "the clip"),
        column("split", pa.string(), "train or eval"),
        column("bucket", pa.string(), "frames x height x width"),
        column("sample_key", pa.string(), "digest of video content, window and bucket"),
        *LOCATION,
        column("made_by", pa.string(), "device and library versions that made it"),
    ]
)
CAPTION_INDEX = pa.schema(
    [
        column("role", pa.string(), "train, eval, null, prompt or negative"),
        column("name", pa.string(), "clip_id for train and eval, nickname for prompt, else empty"),
        column("position", pa.int32(), "which of a clip's alternative captions, from 0"),
        *TEXTS,
    ]
)


def clip_id_of(dataset: str, path: str) -> str:
    """Return 20 hex digits that name a clip: a digest of its data set and its path in it."""
    return hashlib.blake2b(f"{dataset}\0{path}".encode(), digest_size=10).hexdigest()


def table_of(rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Build a table of exactly these columns from dictionaries that may have more."""
    names = schema.names
    return pa.Table.from_pylist([{name: row[name] for name in names} for row in rows], schema=schema)


def to_parquet(table: pa.Table, *, metadata: Mapping[str, str] | None = None) -> bytes:
    """Serialise a table, with extra key-value metadata in its schema."""
    if metadata:
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), **metadata})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def read_parquet(data: bytes) -> pa.Table:
    """Read back what `to_parquet` wrote."""
    try:
        return pq.read_table(pa.BufferReader(data))
    except pa.ArrowInvalid as error:
        raise SanaError(f"a table of {len(data)} bytes is damaged: {error}") from error


def read_table(store: Store, artifact: Artifact, name: str) -> pa.Table:
    """Read a table of an artifact."""
    key = artifact.files[name].key
    try:
        return read_parquet(store.read(key))
    except (FileNotFoundError, SanaError) as error:
        raise SanaError(
            f"{store.uri(key)} cannot be read ({error}); make it again: sana run CONFIG --force {artifact.stage}"
        ) from error


def content_digest(table: pa.Table, columns: Sequence[str]) -> str:
    """Digest the logical rows over `columns`, sorted by them in turn: no order, chunking or file layout enters."""
    picked = table.select(list(columns))
    sortable = [name for name in columns if not pa.types.is_list(picked.schema.field(name).type)]
    picked = picked.sort_by([(name, "ascending") for name in sortable]).combine_chunks()
    digest = hashlib.blake2b(digest_size=16)
    digest.update(f"{picked.num_rows}:{','.join(columns)}".encode())
    for name in columns:
        _digest_column(digest, picked.column(name))
    return digest.hexdigest()


def _digest_column(digest: Any, column: pa.ChunkedArray) -> None:
    if pa.types.is_list(column.type):
        lengths = pc.list_value_length(column)
        digest.update(np.ascontiguousarray(lengths.to_numpy(), dtype="<i8").data)
        column = pc.list_flatten(column)
    if pa.types.is_string(column.type):
        encoded = pc.cast(column, pa.large_binary())
        digest.update(np.ascontiguousarray(pc.binary_length(encoded).to_numpy(), dtype="<i8").data)
        for chunk in encoded.chunks:
            digest.update(b"".join(chunk.to_pylist()))
    elif pa.types.is_integer(column.type):
        digest.update(np.ascontiguousarray(column.to_numpy(), dtype="<i8").data)
    elif pa.types.is_floating(column.type):
        digest.update(np.ascontiguousarray(column.to_numpy(), dtype="<f8").data)
    else:
        raise TypeError(f"no digest is defined for columns of type {column.type}")


def count_rejects(num_in: int, num_out: int, rejects: pa.Table) -> dict[str, int]:
    """Return the counts of a stage: in, out, refused, and one number per reason. In = out + refused, or it raises."""
    if num_in != num_out + rejects.num_rows:
        raise AssertionError(f"{num_in} clips in, {num_out} out, {rejects.num_rows} refused: some disappeared")
    reasons = Counter(rejects.column("reason").to_pylist())
    return {
        "in": num_in,
        "out": num_out,
        "refused": rejects.num_rows,
        **{f"refused.{reason}": reasons[reason] for reason in sorted(reasons)},
    }


def refused_by_dataset(datasets_in: Iterable[str], rejects: pa.Table) -> dict[str, list[int]]:
    """Return {data set: [clips in, clips refused]}, from the data set of each clip that came in."""
    refused = Counter(rejects.column("dataset").to_pylist())
    return {name: [num, refused[name]] for name, num in sorted(Counter(datasets_in).items())}


def check_refusals(config: Config, artifact: Artifact) -> None:
    """Fail when a committed stage refused more than its data sets allow, or left no clip.

    Raises:
        RefusedError: names the data set, the numbers, the top reasons and the table to open.
    """
    datasets: Mapping[str, Sequence[int]] = artifact.facts.get("datasets", {})
    if not datasets:
        return
    limits = {dataset.id: dataset.max_refused_fraction for dataset in config.download.datasets}
    reasons = sorted(
        ((num, key.removeprefix("refused.")) for key, num in artifact.counts.items() if key.startswith("refused.")),
        reverse=True,
    )
    top = ", ".join(f"{num} {reason}" for num, reason in reasons[:3]) or "none"
    where = artifact.files["rejects.parquet"].key
    if artifact.counts["out"] == 0:
        raise RefusedError(
            f"{artifact.stage}: no clip is left of {artifact.counts['in']} ({top}); every refusal is listed in {where}"
        )
    for name, (num_in, num_refused) in datasets.items():
        limit = limits.get(name, 1.0)
        if num_refused > limit * num_in:
            raise RefusedError(
                f"{artifact.stage}: data set {name}: {num_refused} of {num_in} clips were refused ({top}), more than "
                f"max_refused_fraction {limit:g} allows; every refusal is listed in {where}. "
                "Mend the files, or raise download.datasets.max_refused_fraction"
            )
