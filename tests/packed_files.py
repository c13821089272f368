"""Data sets as they are published packed: tars, zips and Parquet files with the videos in their rows."""

import gzip
import io
import tarfile
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sana.data.sources.listing import is_video
from tests.downloads import FinishedDownload, context

DEMO_CLIPS = Path(__file__).parents[1] / "configs/demo/clips"


def demo_files() -> dict[str, bytes]:
    """The demo's clips and their texts, by name."""
    return {path.name: path.read_bytes() for path in sorted(DEMO_CLIPS.iterdir())}


def tar_of(
    files: Mapping[str, bytes],
    *,
    zipped: bool = False,
    again: Mapping[str, bytes] | None = None,
    members: Sequence[tarfile.TarInfo] = (),
) -> bytes:
    """A tar of these files, then of those `again`, then of these members, which have no bytes."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT, errors="surrogateescape") as archive:
        for name, data in [*files.items(), *(again or {}).items()]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for info in members:
            archive.addfile(info)
    return gzip.compress(out.getvalue(), 1) if zipped else out.getvalue()


def tar_member(name: str, kind: bytes, *, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def zip_of(
    files: Mapping[str, bytes], *, method: int = zipfile.ZIP_STORED, again: Mapping[str, bytes] | None = None
) -> bytes:
    """A zip of these files, then of those `again`."""
    out = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w", method) as archive:
        warnings.simplefilter("ignore")  # a name twice
        for name, data in [*files.items(), *(again or {}).items()]:
            archive.writestr(name, data)
    return out.getvalue()


def embedded(rows: Sequence[Mapping[str, Any]], *, rows_per_group: int = 10, checksums: bool = False) -> bytes:
    """A Parquet file as `push_to_hub` writes it: `video` is a struct of bytes and path."""
    columns: dict[str, Any] = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        kind = None
        if name == "video":
            kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        columns[name] = pa.array(values, kind)
    out = io.BytesIO()
    compression = "none" if checksums else "snappy"
    pq.write_table(
        pa.table(columns),
        out,
        row_group_size=rows_per_group,
        use_dictionary=False,
        compression=compression,
        write_page_checksum=checksums,
    )
    return out.getvalue()


def embedded_folder(files: Mapping[str, bytes]) -> bytes:
    """A Parquet file of a folder of videos and their texts: one row a video."""
    rows = []
    for name, data in files.items():
        if is_video(name):
            text = files.get(f"{PurePosixPath(name).stem}.txt", b"").decode()
            rows.append({"video": {"bytes": data, "path": name}, "text": text.strip() or None})
    return embedded(rows)


def halves(files: Mapping[str, bytes]) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """The files in two parts; a text stays beside its video."""
    names = sorted(files)
    first = {PurePosixPath(name).stem for name in names[: len(names) // 2]}
    return (
        {name: files[name] for name in names if PurePosixPath(name).stem in first},
        {name: files[name] for name in names if PurePosixPath(name).stem not in first},
    )


def packings(files: Mapping[str, bytes]) -> dict[str, dict[str, bytes]]:
    """The same folder in every packing: {name of the packing: {path: archive}}."""
    one, two = halves(files)
    return {
        "tar": {"0.tar": tar_of({f"./{name}": data for name, data in files.items()})},
        "tars": {"shard-0.tar": tar_of(two), "shard-1.tar": tar_of(one)},
        "tar.gz": {"all.tar.gz": tar_of(one, zipped=True), "b.tgz": tar_of(two, zipped=True)},
        "zip": {"all.zip": zip_of(files)},
        "zips": {"a.zip": zip_of(one, method=zipfile.ZIP_DEFLATED), "b.zip": zip_of(two, method=zipfile.ZIP_BZIP2)},
        "parquet": {"train-00000-of-00002.parquet": embedded_folder(two), "train-1.parquet": embedded_folder(one)},
    }


ROWS = [{"video": {"bytes": f"video {i}".encode(), "path": f"{i}.mp4"}, "caption": f"text {i}"} for i in range(4)]


def downloaded(tmp_path: Path, source: Path | str, **settings: Any) -> FinishedDownload:
    """Run the download of a data set `d`, in a root of its own."""
    return FinishedDownload(context(tmp_path, {"id": "d", "source": str(source), **settings}))
