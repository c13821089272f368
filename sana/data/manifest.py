"""Manifests: the tables of clips that flow between stages: made, read, counted and digested.

Clips in = clips out + clips refused.
"""

import hashlib
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sana.artifact import Artifact
from sana.config.pipeline import Config
from sana.data.schemas import CUT
from sana.errors import RefusedError, SanaError
from sana.store import Store


def clip_id_of(dataset: str, path: str) -> str:
    """Return 20 hex digits that name a clip: a digest of its data set and its path in it."""
    return hashlib.blake2b(f"{dataset}\0{path}".encode(), digest_size=10).hexdigest()


def sample_key(window: Mapping[str, Any]) -> str:
    """Name a sample by the content of its video and the way it is cut: a replaced file gets another key."""
    text = "\0".join(str(window[name]) for name in CUT)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


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
    if not _ascends(picked.column(0)):
        sortable = [name for name in columns if not pa.types.is_list(picked.schema.field(name).type)]
        picked = picked.sort_by([(name, "ascending") for name in sortable]).combine_chunks()
    digest = hashlib.blake2b(digest_size=16)
    digest.update(f"{picked.num_rows}:{','.join(columns)}".encode())
    for name in columns:
        _digest_column(digest, picked.column(name))
    return digest.hexdigest()


def _ascends(column: pa.ChunkedArray) -> bool:
    """Whether every value is above the one before: such rows are sorted, and sorting lists of text ends at 2 GiB."""
    if pa.types.is_list(column.type):
        return False
    return column.num_chunks > 0 and bool(pc.all(pc.less(column[:-1], column[1:]), min_count=0).as_py())


def _digest_column(digest: Any, column: pa.ChunkedArray) -> None:
    if pa.types.is_list(column.type):
        lengths = pc.list_value_length(column)
        digest.update(np.ascontiguousarray(lengths.to_numpy(), dtype="<i8").data)
        column = pc.list_flatten(column)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        encoded = pc.cast(column, pa.large_binary())
        digest.update(np.ascontiguousarray(pc.binary_length(encoded).to_numpy(), dtype="<i8").data)
        for chunk in encoded.chunks:
            _, offsets, data = chunk.buffers()
            ends = np.frombuffer(offsets, "<i8")[chunk.offset : chunk.offset + len(chunk) + 1] if len(chunk) else [0]
            digest.update(memoryview(data)[ends[0] : ends[-1]] if data else b"")
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
