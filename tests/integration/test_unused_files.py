"""Nothing vanishes: a folder's files are its videos (clips and rejects), its files of captions and its unused files."""

import os
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from sana.data.sources.listing import SourceFile, table_of_files
from sana.data.sources.source_check import check_sources
from sana.data.sources.unused_files import count_by_ending, table_of_unused, unused_of
from sana.data.tables import read_table
from sana.facts import DownloadFacts
from tests.downloads import FinishedDownload, context
from tests.source_files import make_files, opened

pytestmark = pytest.mark.timeout(60)

# folder -> (files, layout, unused by ending, what the notes say)
FOLDERS: dict[str, tuple[dict[str, Any], str, dict[str, int], list[str]]] = {
    "only videos and their texts": ({"a.mp4": "1", "a.txt": "x", "b/c.MKV": "2", "b/c.txt": "y"}, "auto", {}, []),
    "other endings": (
        {"a.mp4": "1", "a.txt": "x", "b.webp": "2", "b.txt": "y", "c.WebP": "3", "d.json": "{}", "README": "r"},
        "auto",
        {".webp": 2, ".json": 1, ".txt": 1, "without an ending": 1},
        ["5 files are not read: 2 .webp, 1 .json, 1 .txt, 1 without an ending", "b.txt: no video has", "d.json: if it"],
    ),
    "a table of another name": (
        {"a.mp4": "1", "a.txt": "x", "captions.csv": "file_name,text\na.mp4,z\n", "sub/Train.PARQUET": "p"},
        "auto",
        {".csv": 1, ".parquet": 1},
        ["captions.csv, sub/Train.PARQUET: a table of captions is called metadata.csv"],
    ),
    "tables of other kinds": (
        {"a.mp4": "1", "a.txt": "x", "metadata.xlsx": "x", "metadata.tsv": "x", "a.json": "{}", "all.json": "[]"},
        "auto",
        {".json": 2, ".tsv": 1, ".xlsx": 1},
        ["all.json, metadata.tsv, metadata.xlsx: if it holds captions, save it as metadata.csv"],
    ),
    "a table beside texts": (
        {"a.mp4": "1", "a.txt": "x", "b.mp4": "2", "b.txt": "y", "metadata.csv": "file_name,text\na.mp4,z\n"},
        "auto",
        {".txt": 2},
        ["2 files are not read: 2 .txt", "a.txt, b.txt: captions are read from metadata.csv alone"],
    ),
    "texts where no caption is read": (
        {"a.mp4": "1", "a.txt": "x", "metadata.csv": "file_name,text\n"},
        "none",
        {".csv": 1, ".txt": 1},
        ["2 files are not read: 1 .csv, 1 .txt"],
    ),
    "partial downloads and pictures": (
        {"a.mp4": "1", "a.txt": "x", "b.mp4.part": "2", "c.mp4.crdownload": "3", "d.incomplete": "4", "a.jpg": "5"},
        "auto",
        {".crdownload": 1, ".incomplete": 1, ".jpg": 1, ".part": 1},
        ["4 files are not read: 1 .crdownload, 1 .incomplete, 1 .jpg, 1 .part", "b.mp4.part, c.mp4.crdownload, d.inc"],
    ),
    "placeholders of a cloud": (
        {"a.mp4": "1", "a.txt": "x", ".b.mp4.icloud": "bplist00", "s/.c.mov.icloud": "b", ".d/.e.mp4.icloud": "hidden"},
        "auto",
        {".icloud": 2},
        ["2 files are not read: 2 .icloud", ".b.mp4.icloud, s/.c.mov.icloud: not here as a whole"],
    ),
    "odd names": (
        {"a.mp4": "1", "a.txt": "x", "a.mp4.": "2", "mp4": "3", "x.b/mp4": "4", "c.\u043c\u043f4": "5",
         "n\n.mp4\n": "6", " .mp4 ": "7"},
        "auto",
        {"without an ending": 3, ".mp4 ": 1, ".mp4\n": 1, ".\u043c\u043f4": 1},
        ["6 files are not read"],
    ),
    "captions in other files beside the videos": (
        {"a.mp4": "1", "a.txt": "x", "a.json": "{}", "b.mp4": "2", "b.caption": "y", "c.mp4": "3", "c.json": "{}",
         "README.md": "r"},
        "auto",
        {".json": 2, ".caption": 1, ".md": 1},
        ["4 files are not read", "b.caption, c.json: the text of clip.mp4 is read from clip.txt alone"],
    ),
    "a table where texts are asked for": (
        {"a.mp4": "1", "a.txt": "x", "metadata.csv": "file_name,text\na.mp4,z\n"},
        "textfile",
        {".csv": 1},
        ["1 file is not read", "metadata.csv: captions.layout is textfile, so texts alone are read"],
    ),
    "archives of other kinds": (
        {"a.mp4": "1", "a.txt": "x", "b.rar": "2", "c.tar.zst": "3", "d.mp4.gz": "4", "e.zip.001": "5"},
        "auto",
        {".001": 1, ".gz": 1, ".rar": 1, ".zst": 1},
        ["4 files are not read", "b.rar, c.tar.zst, d.mp4.gz and 1 more: unpack it, or pack it as .tar"],
    ),
    "lines": (
        {"a.mp4": "1", "videos.txt": "a.mp4\n", "prompts.txt": "x\n", "a.txt": "y"},
        "auto",
        {".txt": 1},
        ["1 file is not read: 1 .txt", "a.txt: captions are read from prompts.txt, videos.txt alone"],
    ),
    "hidden": ({"a.mp4": "1", "a.txt": "x", ".b.mp4": "2", ".git/c.mp4": "3", "d/.e/f.webp": "4"}, "auto", {}, []),
}  # fmt: skip


def is_hidden(path: str) -> bool:
    *folders, name = path.split("/")
    return any(part.startswith(".") for part in folders) or (name.startswith(".") and not name.endswith(".icloud"))


@pytest.mark.parametrize("name", FOLDERS)
def test_files_of_a_folder_are_clips_rejects_captions_and_unused_files(tmp_path: Path, name: str) -> None:
    files, layout, unused, says = FOLDERS[name]
    folder = make_files(tmp_path / "s", files)
    captions_config = {"layout": layout, **({"fallback": "x"} if layout == "none" else {})}
    at = context(tmp_path, {"source": str(folder), "captions": captions_config})
    problems, notes = check_sources(at.config, work_dir=at.work_dir)
    assert not problems
    done = FinishedDownload(at)
    rows = read_table(at.store, done.artifact, "unused_files.parquet").to_pylist()
    videos = {clip["path"] for clip in done.clips} | set(done.rejected)
    source = opened(folder, tmp_path / "work")
    captions = set(source.caption_files.column("path").to_pylist()) if layout == "auto" else set()
    if layout == "textfile":
        captions = {path for path in files if path.endswith(".txt")}
    shown = {row["path"]: row["num_bytes"] for row in rows}
    in_folder = {path for path in files if not is_hidden(path)}
    assert len(videos) + len(captions) + len(shown) == len(in_folder)
    assert videos | captions | set(shown) == in_folder
    assert all(len(files[path]) == num_bytes for path, num_bytes in shown.items())
    assert DownloadFacts.of(done.artifact).unused_files == ({"d0": unused} if unused else {})
    assert done.artifact.counts.extra.get("unused_files", 0) == sum(unused.values())
    assert len(notes) >= len(says) and (says or not notes)
    for part in says:
        assert any(note.startswith("download.datasets[d0]: ") and part in note for note in notes), (part, notes)


def test_a_file_that_nothing_reads_changes_the_counts_and_no_clip(tmp_path: Path) -> None:
    folder = make_files(tmp_path / "s", {"a.mp4": "1", "a.txt": "x"})
    before = FinishedDownload(context(tmp_path, {"source": str(folder)}))
    make_files(folder, {"README.md": "new"})
    after = FinishedDownload(context(tmp_path, {"source": str(folder)}))
    assert after.artifact.fingerprint != before.artifact.fingerprint, "the counts are of this folder"
    assert after.artifact.content == before.artifact.content, "so nothing below download runs again"
    assert (before.artifact.counts.extra, after.artifact.counts.extra) == ({}, {"unused_files": 1})


def test_what_cannot_be_read_is_counted_too(tmp_path: Path) -> None:
    folder = make_files(tmp_path / "s", {"a.mp4": "1", "a.txt": "x"})
    (folder / "b.txt").symlink_to("nowhere")
    (folder / "c.mp4").symlink_to("nowhere")
    os.mkfifo(folder / "pipe")
    (folder / os.fsdecode(b"caf\xe9.webp")).write_bytes(b"")
    (folder / os.fsdecode(b"caf\xe9.mp4")).write_bytes(b"")
    make_files(folder, {"sub/metadata.csv/x.json": "{}"})  # a folder that is called as a table
    done = FinishedDownload(context(tmp_path, {"source": str(folder)}))
    assert set(done.captions) == {"a.mp4"} and set(done.rejected) == {"c.mp4", "caf\\xe9.mp4"}
    unused = opened(folder, tmp_path / "work").unused_files.column("path").to_pylist()
    assert unused == ["b.txt", "caf\\xe9.webp", "pipe", "sub/metadata.csv/x.json"]


def test_many_files_are_counted_by_column(tmp_path: Path) -> None:
    num, started = 200_000, time.monotonic()
    files = (SourceFile(f"{i:06}.{('mp4', 'txt', 'webp', f'e{i % 90}')[i % 4]}", 1, "etag:x") for i in range(num))
    listed = table_of_files(files)
    texts = listed.filter(pa.array([path.endswith("000001.txt") for path in listed.column("path").to_pylist()]))
    unused = unused_of(listed, texts)
    table = table_of_unused("d", unused, listed.slice(0, 0))
    counts = count_by_ending(table.column("path"))
    assert table.num_rows == unused.num_rows == num * 3 // 4 - 1 == sum(counts.values())
    assert len(counts) == 21 and list(counts)[:2] == [".webp", ".txt"] and list(counts)[-1] == "of other endings"
    assert time.monotonic() - started < 20
