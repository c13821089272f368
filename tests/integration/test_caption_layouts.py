"""One data set has the same content in every caption layout, and as a table beside its videos."""

from pathlib import Path

import pytest

from sana.data.sources.source_check import check_sources
from sana.stages import download
from tests.downloads import CLIPS, ROWS, FinishedDownload, context, csv_of, jsonl_of, parquet_of, videos
from tests.source_files import make_files

pytestmark = pytest.mark.timeout(60)


LISTS = [{"file_name": path, "captions": texts} for path, texts in CLIPS.items()]
MIXED = [{"file_name": path, "text": texts if len(texts) > 1 else texts[0]} for path, texts in CLIPS.items()]
SHALLOW = [row for row in ROWS if not row["file_name"].startswith("deep/")]
DEEP = [{**row, "file_name": row["file_name"][5:]} for row in ROWS if row["file_name"].startswith("deep/")]
LAYOUTS: dict[str, dict[str, bytes | str]] = {
    "textfile": {f"{path.rpartition('.')[0]}.txt": "\r\n".join(texts) for path, texts in CLIPS.items()},
    "textfile, other endings": {
        f"{path.rpartition('.')[0]}.TXT": "\ufeff" + "\n\n".join(texts) + "\n" for path, texts in CLIPS.items()
    },
    "csv": {"metadata.csv": csv_of(ROWS)},
    "csv with a byte order mark": {"metadata.csv": "\ufeff" + csv_of(ROWS)},
    "jsonl": {"metadata.jsonl": jsonl_of(ROWS)},
    "jsonl of lists and texts": {"metadata.jsonl": jsonl_of(MIXED)},
    "parquet": {"metadata.parquet": parquet_of(ROWS)},
    "parquet of lists": {"metadata.parquet": parquet_of(LISTS)},
    "two tables": {"metadata.csv": csv_of(SHALLOW), "deep/metadata.jsonl": jsonl_of(DEEP)},
    "lines": {
        "prompts.txt": "\n".join(row["text"] for row in ROWS),
        "videos.txt": "\r\n".join(f"./{row['file_name']}" for row in ROWS) + "\r\n",
    },
    "lines, with blank ones at the end": {
        "prompts.txt": "\n".join(row["text"] for row in ROWS) + "\n",
        "videos.txt": "\r\n".join(row["file_name"] for row in ROWS) + "\r\n\r\n \r\n",
    },
}


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory) -> FinishedDownload:
    folder = tmp_path_factory.mktemp("wanted")
    return FinishedDownload(
        context(folder, {"source": str(make_files(folder / "s", {**videos(), **LAYOUTS["textfile"]}))})
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_same_clips_have_the_same_content_in_any_layout(
    tmp_path: Path, layout: str, wanted: FinishedDownload
) -> None:
    source = make_files(tmp_path / "s", {**videos(), **LAYOUTS[layout]})
    done = FinishedDownload(context(tmp_path, {"source": str(source)}))
    assert done.captions == CLIPS
    assert check_sources(done.context.config, work_dir=done.context.work_dir) == ([], [])
    assert (done.artifact.content, done.clips) == (wanted.artifact.content, wanted.clips)


@pytest.mark.parametrize("name", ["clips.csv", "clips.jsonl", "clips.parquet"])
def test_the_same_clips_have_the_same_content_as_a_table(tmp_path: Path, name: str, wanted: FinishedDownload) -> None:
    make_table = {"csv": csv_of, "jsonl": jsonl_of, "parquet": parquet_of}[name.rpartition(".")[2]]
    rows = [dict(row) for row in ROWS]
    rows[0]["file_name"] = f"{tmp_path}/s/{rows[0]['file_name']}"
    make_files(tmp_path / "s", {**videos(), name: make_table(rows), "not named.mp4": "x"})
    done = FinishedDownload(context(tmp_path, {"source": f"{tmp_path}/s/{name}"}))
    assert check_sources(done.context.config, work_dir=done.context.work_dir) == ([], [])
    assert (done.artifact.content, done.clips) == (wanted.artifact.content, wanted.clips)


def test_only_a_changed_caption_file_changes_the_fingerprint(tmp_path: Path) -> None:
    folder = make_files(tmp_path / "s", {**videos(), **LAYOUTS["csv"]})
    at = context(tmp_path, {"source": str(folder)})
    make_files(folder, {"a.txt": "not what this layout reads"})
    before = download.recipe(at, {}).fingerprint
    make_files(folder, {"a.txt": "NOT WHAT THIS LAYOUT READS"})  # its name and size are written down, no more
    assert download.recipe(at, {}).fingerprint == before
    make_files(folder, {"metadata.csv": csv_of([*ROWS, ROWS[0]])})
    assert download.recipe(at, {}).fingerprint != before
