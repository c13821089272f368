"""Errors of a source name its data set, once."""

from pathlib import Path

import pytest

from sana.config.data import DatasetConfig
from sana.data.sources.file_cache import FileCache
from sana.data.sources.source import open_source
from sana.errors import ConfigError, SanaError
from sana.store import StoreError
from tests.s3_server import WeedServer
from tests.source_files import FILES, digests, listing, make_files, opened

pytestmark = pytest.mark.timeout(60)

WRONG = {  # files of the folder, settings of the data set beside its id, and what the message must contain
    "gone": ({}, {"source": "gone"}, "source .*gone is not there"),
    "a file": ({"a.gif": b""}, {"source": "a.gif"}, "is a file"),
    "of no kind": ({}, {"source": "gs://bucket/x"}, "is not one of"),
    "no bucket": ({}, {"source": "s3://"}, "source s3://: "),
    "no video": ({"a.txt": b""}, {}, "holds no video"),
    "only hidden ones": ({".a.mp4": b"", ".b/c.mp4": b""}, {}, "holds no video.*hidden ones .* are not looked at"),
    "other archives": ({"a.rar": b""}, {}, "holds no video.*1 .rar; a.rar: unpack it, or pack it as .tar"),
    "videos in metadata.parquet": (
        {"metadata.parquet": b"PAR1"}, {}, "metadata.parquet is read as a table of the files beside it; if the videos",
    ),
    "a page of the hub": (
        {}, {"source": "https://huggingface.co/datasets/a/b/tree/main"}, "not one of.*did you mean hf://datasets/a/b",
    ),
    "a file address": ({}, {"source": "file:///data/x"}, "is not one of.*; did you mean /data/x"),
    "in other case": ({"Clips/a.mp4": b""}, {"source": "clips"}, "is not there; .*did you mean .*/s/Clips\\?"),
    "a glob": ({"a.mp4": b""}, {"source": "*.mp4"}, r"is not there; .*\* is not expanded here, name the folder: .*/s$"),
    "a video": ({"a.mp4": b""}, {"source": "a.mp4"}, "is a file; .*; its folder is .*/s$"),
    "no table": ({"a.mp4": b""}, {"captions": {"layout": "metadata"}}, "no metadata.csv"),
    "table gone": ({}, {"source": "t.csv"}, "t.csv is not there"),
    "table without a column": ({"t.csv": b"video,words\n"}, {"source": "t.csv"}, "t.csv has none of"),
    "wrong layout": ({"t.csv": b"video,text\n"}, {"source": "t.csv", "captions": {"layout": "lines"}}, "is a table"),
    "hub offline": ({}, {"source": "hf://datasets/a/b"}, "HF_HUB_OFFLINE is set"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_an_error_of_a_source_names_its_data_set_once(
    tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, settings, says = WRONG[case]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    folder = make_files(tmp_path / "s", files)
    folder.mkdir(exist_ok=True)
    source = settings.get("source", "")
    settings = {**settings, "source": source if "://" in source else str(folder / source)}
    with pytest.raises(ConfigError, match=rf"^download\.datasets\[films\.1\]: (?!download)(?s:.*){says}"):
        cache = FileCache(tmp_path / "videos", max_bytes=1)
        listing(open_source(DatasetConfig(id="films.1", **settings), work_dir=tmp_path / "work", cache=cache))


def test_an_error_while_reading_names_the_data_set(tmp_path: Path, s3: WeedServer) -> None:
    folder = make_files(tmp_path / "s", FILES)
    source = opened(folder, tmp_path / "work")
    digest = digests(source)["b.mp4"]
    (folder / "b.mp4").write_bytes(b"other")
    with (
        pytest.raises(SanaError, match=r"^download\.datasets\[d\]: .*not what"),
        source.open_video("b.mp4", digest=digest),
    ):
        pass
    with pytest.raises(StoreError, match=r"^download\.datasets\[d\]: .*bucket does not exist"):
        listing(opened(f"s3://no-such-{s3.bucket}/x", tmp_path / "work"))


def test_an_error_of_the_user_of_a_file_does_not_name_the_data_set(tmp_path: Path) -> None:
    source = opened(make_files(tmp_path / "s", FILES), tmp_path / "work")
    with (
        pytest.raises(SanaError, match="^the store is full"),
        source.open_video("b.mp4", digest=digests(source)["b.mp4"]),
    ):
        raise SanaError("the store is full")
