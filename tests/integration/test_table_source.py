"""A table of URIs and captions as a source: videos beside it and elsewhere, and its errors."""

import os
import time
from pathlib import Path

import pytest

from sana.data.sources.source import fetch_summary, open_sources
from sana.errors import ConfigError
from sana.stages import download
from sana.store import open_store
from tests.downloads import FinishedDownload, context, csv_of, parquet_of
from tests.pipeline_runs import run_alone
from tests.s3_server import WeedServer
from tests.source_files import make_files

pytestmark = pytest.mark.timeout(60)


def test_a_table_in_s3_names_videos_beside_it_and_elsewhere(s3: WeedServer, tmp_path: Path) -> None:
    root = f"s3://{s3.bucket}/table-{time.time_ns()}"
    data = {path: os.urandom(1000) for path in ("set/a.mp4", "set/b/b", "elsewhere/c.mp4", "secret.mp4")}
    names = ["a.mp4", f"{root}/set/b/b", f"{root}/elsewhere/c.mp4", f"{root}/elsewhere/gone.mp4", "../secret.mp4"]
    names += [f"{root}/set/../secret.mp4", "file:///etc/passwd", "s3://bucket"]
    rows = [{"uri": name, "caption": f"caption of {name}"} for name in names]
    store = open_store(root)
    for key, value in {**data, "set/clips.parquet": parquet_of(rows)}.items():
        assert store.put_if_absent(key, value)
    at = context(tmp_path, {"source": f"{root}/set/clips.parquet"})
    done = FinishedDownload(at)
    paths = {"a.mp4": "set/a.mp4", "b/b": "set/b/b", f"{root}/elsewhere/c.mp4": "elsewhere/c.mp4"}
    assert sorted(done.captions) == sorted(paths)
    reasons = {path: reason for path, (reason, _) in done.rejected.items()}
    assert reasons == {names[3]: "missing", **dict.fromkeys(names[4:], "outside")}
    later = open_sources(at.config, work_dir=tmp_path / "work")  # as probe does: nothing is listed again
    for clip in done.clips:
        with later["d0"].open_video(clip["path"], digest=clip["digest"]) as path:
            assert path.read_bytes() == data[paths[clip["path"]]]
    assert fetch_summary(later).startswith("2.9 KiB fetched, ")
    for path in ("s3://b/../x.mp4", "../x.mp4", "/x.mp4"):
        with pytest.raises(ValueError, match="inside"):
            later["d0"].open_video(path, digest="x")


def test_many_named_objects_are_found_by_a_listing(s3: WeedServer, tmp_path: Path) -> None:
    root = f"s3://{s3.bucket}/many-{time.time_ns()}"
    store = open_store(root)
    for i in range(70):
        store.put_if_absent(f"v/{i % 3}/{i}.mp4", b"%d" % i)
    rows = [{"uri": f"{root}/v/{i % 3}/{i}.mp4", "text": str(i)} for i in range(1, 71)]
    table = make_files(tmp_path / "t", {"clips.csv": csv_of(rows)}) / "clips.csv"
    done = FinishedDownload(context(tmp_path, {"source": str(table)}))
    assert len(done.clips) == 69 and list(done.rejected) == [rows[-1]["uri"]]


def test_an_empty_table_or_one_of_another_layout_is_a_config_error(tmp_path: Path) -> None:
    folder = make_files(tmp_path / "s", {"empty.csv": "video,text\n", "a.mp4": "1"})
    with pytest.raises(ConfigError, match="has no row"):
        run_alone(download, context(tmp_path, {"source": f"{folder}/empty.csv"}), {})
    with pytest.raises(ConfigError, match="textfile is for a folder"):
        run_alone(
            download, context(tmp_path, {"source": f"{folder}/empty.csv", "captions": {"layout": "textfile"}}), {}
        )
    with pytest.raises(ConfigError, match="not there"):
        run_alone(download, context(tmp_path, {"source": f"{folder}/gone.csv"}), {})


def test_a_table_source_without_the_column_names_its_data_set(tmp_path: Path) -> None:
    good = make_files(tmp_path / "a", {"t.csv": "video,text\na.mp4,x\n", "a.mp4": "1"})
    bad = make_files(tmp_path / "b", {"t.csv": "video,words\na.mp4,x\n", "a.mp4": "2"})
    sources = ({"source": f"{folder}/t.csv"} for folder in (good, bad))
    with pytest.raises(ConfigError, match=r"datasets\[d1\]: t.csv has none of the columns text, .*has: video, w"):
        download.recipe(context(tmp_path, *sources), {})
