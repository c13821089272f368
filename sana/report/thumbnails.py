"""Thumbnails: the first frame of some samples of each bucket, cut from the source videos as training sees them.

Which samples, and what of them is fetched, is a function of the tables alone: the same page for the same artifacts.
"""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL import Image

from sana.artifact import Artifact
from sana.bucket import Bucket
from sana.config.pipeline import Config
from sana.config.places import at_home
from sana.data.columns import batches, find_rows
from sana.data.schemas import SAMPLE_KEY_COLUMNS
from sana.data.sources.source import Source, open_sources
from sana.errors import SanaError
from sana.store import Store

MAX_BUCKETS, PER_BUCKET = 20, 6
MAX_JPEG_BYTES = 6 * 1024
MAX_FETCHED_BYTES = 256 * 2**20  # of videos that are not on a local disk
_CANDIDATES = 4 * PER_BUCKET  # of which some may be of one clip, or not encoded
_AREA = 132 * 88  # pixels of a thumbnail, whatever its shape
_WANTED = tuple(sorted({"path", "dataset", "num_bytes", "split", *SAMPLE_KEY_COLUMNS}))  # of a window
_QUALITIES = (82, 70, 55, 40, 25)


@dataclass(frozen=True)
class Thumbnail:
    """One sample: its name, the video it is from, and a JPEG as base64."""

    sample_id: str
    path: str
    split: str
    width: int
    height: int
    jpeg: str


# of samples: {sample_id: thumbnail}, and why others are missing
Pictures = Callable[[Sequence[str]], tuple[Mapping[str, Thumbnail], Mapping[str, int]]]


@dataclass(frozen=True)
class Thumbnails:
    """`by_bucket`: {bucket: thumbnails}; `missing`: why some are not there, each reason once, with its number."""

    by_bucket: Mapping[str, Sequence[Thumbnail]]
    missing: Mapping[str, int]


def thumbnails(
    store: Store, config: Config, work_dir: Path, *, windows: Artifact, encoded: Artifact | None, shapes: Sequence[str]
) -> Thumbnails:
    """Cut the first frames of up to PER_BUCKET samples of each bucket in `shapes`.

    Of `encoded`, the index of latents, where it is given: samples that are really in the store; else of all windows.

    Raises:
        SanaError: a table is gone or damaged. A source that cannot be read is named in `missing` instead.
    """
    rows = _choose_windows(store, windows, encoded, shapes[:MAX_BUCKETS])
    pictures, missing = _cut(config, work_dir, rows)
    found: dict[str, list[Thumbnail]] = {}
    for row in rows:
        if (picture := pictures.get(row["sample_id"])) is not None:
            found.setdefault(row["bucket"], []).append(picture)
    return Thumbnails(found, missing)


def pictures_of(
    store: Store, config: Config, work_dir: Path, windows: Artifact, sample_ids: Sequence[str]
) -> tuple[Mapping[str, Thumbnail], Mapping[str, int]]:
    """Cut the first frames of some samples: {sample_id: thumbnail}, and why some are not there. Raises as above."""
    rows = find_rows(store, windows, "clips.parquet", list(_WANTED), key="sample_id", among=sample_ids)
    return _cut(config, work_dir, rows)


def _cut(
    config: Config, work_dir: Path, rows: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, Thumbnail], dict[str, int]]:
    """Cut a thumbnail of each window, by sample_id, and count why others are missing, each reason once."""
    try:
        sources = open_sources(config, work_dir=work_dir, read_only=True)
    except SanaError as error:
        return {}, {str(error): len(rows)} if rows else {}
    is_local = {part.id: at_home(part.source).is_dir() for part in config.download.enabled}
    found: dict[str, Thumbnail] = {}
    missing: dict[str, int] = {}
    fetched = 0
    for row in rows:
        if not is_local.get(row["dataset"], False):
            fetched += row["num_bytes"]
        try:
            if fetched > MAX_FETCHED_BYTES:
                raise SanaError(
                    f"no more than {MAX_FETCHED_BYTES >> 20} MiB of remote videos are fetched for this page"
                )
            found[row["sample_id"]] = _thumbnail(sources, row)
        except (SanaError, OSError) as error:
            missing[str(error)] = missing.get(str(error), 0) + 1
    return found, missing


def _choose_windows(
    store: Store, windows: Artifact, encoded: Artifact | None, shapes: Sequence[str]
) -> list[dict[str, Any]]:
    """Return the windows to show: of each bucket those that begin first and, of these, those with the least sample ids.

    A window that begins late needs all the frames before it decoded; a sample id begins with a digest, so that the
    least are a random sample. No clip is shown twice.
    """
    order = ("start_frame", "sample_id")
    least: dict[str, list[dict[str, Any]]] = {shape: [] for shape in shapes}
    for batch in batches(store, windows, "clips.parquet", ["bucket", "clip_id", *order]):
        for shape, kept in least.items():
            of_shape = batch.filter(pc.equal(batch.column("bucket"), shape))
            some = pc.select_k_unstable(of_shape, k=_CANDIDATES, sort_keys=[(name, "ascending") for name in order])
            kept += of_shape.take(some).to_pylist()
            kept.sort(key=lambda row: (row["start_frame"], row["sample_id"]))
            del kept[_CANDIDATES:]
    among = [row["sample_id"] for kept in least.values() for row in kept]
    if encoded is not None:
        among = [
            row["sample_id"] for row in find_rows(store, encoded, "index.parquet", [], key="sample_id", among=among)
        ]
    there = frozenset(among)
    chosen: dict[str, int] = {}
    for kept in least.values():
        one_a_clip = {row["clip_id"]: row for row in reversed(kept) if row["sample_id"] in there}
        names = sorted((row["start_frame"], row["sample_id"]) for row in one_a_clip.values())
        chosen |= {name: rank for rank, (_, name) in enumerate(names[:PER_BUCKET])}
    rows = find_rows(store, windows, "clips.parquet", list(_WANTED), key="sample_id", among=sorted(chosen))
    return sorted(rows, key=lambda row: (shapes.index(row["bucket"]), chosen[row["sample_id"]]))


def _thumbnail(sources: Mapping[str, Source], row: Mapping[str, Any]) -> Thumbnail:
    """Decode one frame of a window. Raises SanaError or OSError, with the reason."""
    # here and not above: a page without thumbnails must not load a video library
    from sana.data.video.frames import read_window
    from sana.data.video.video import ClipRejected

    bucket = Bucket.parse(row["bucket"])
    if row["dataset"] not in sources:
        raise SanaError(f"download.datasets[{row['dataset']}] is not in the config")
    first_frame = {**row, "bucket": str(Bucket(1, bucket.height, bucket.width))}
    try:
        with sources[row["dataset"]].open_video(row["path"], digest=row["digest"]) as path:
            frame = read_window(path, first_frame)[0]
    except ClipRejected as rejection:
        raise SanaError(f"{row['path']}: {rejection.reason}, {rejection.detail}") from rejection
    picture = _shrunk(frame)
    jpeg = base64.b64encode(_jpeg(picture)).decode()
    return Thumbnail(row["sample_id"], row["path"], row["split"], picture.width, picture.height, jpeg)


def _shrunk(frame: NDArray[np.uint8]) -> Image.Image:
    """Scale a frame [H, W, 3] to the area that all thumbnails have."""
    height, width = frame.shape[:2]
    scale = (_AREA / (height * width)) ** 0.5
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS)


def _jpeg(picture: Image.Image) -> bytes:
    """Return a JPEG of at most MAX_JPEG_BYTES, as good as fits."""
    for quality in _QUALITIES:
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=quality, optimize=True)
        if buffer.tell() <= MAX_JPEG_BYTES:
            return buffer.getvalue()
    return _jpeg(picture.resize((max(1, picture.width // 2), max(1, picture.height // 2))))
