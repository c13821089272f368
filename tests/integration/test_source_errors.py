"""What is wrong with a source is said once, with the id of its data set."""

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

WRONG = {  # what is in the folder, what the config says of it beside its id, what the message goes on with
    "gone": ({}, {"source": "gone"}, "source .*gone is not there"),
    "a file": ({"a.gif": b""}, {"source": "a.gif"}, "is a file"),
    "of no kind": ({}, {"source": "gs://bucket/x"}, "is not one of"),
    "no bucket": ({}, {"source": "s3://"}, "source s3://: "),
    "no video": ({"a.txt": b""}, {}, "holds no video"),
    "no table": ({"a.mp4": b""}, {"captions": {"layout": "metadata"}}, "no metadata.csv"),
    "table gone": ({}, {"source": "t.csv"}, "t.csv is not there"),
    "table without a column": ({"t.csv": b"video,words\n"}, {"source": "t.csv"}, "t.csv has none of"),
    "wrong layout": ({"t.csv": b"video,text\n"}, {"source": "t.csv", "captions": {"layout": "lines"}}, "is a table"),
    "hub offline": ({}, {"source": "hf://datasets/a/b"}, "HF_HUB_OFFLINE is set"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_with_a_source_names_its_data_set_once(
    tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, knobs, says = WRONG[case]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    folder = make_files(tmp_path / "s", files)
    folder.mkdir(exist_ok=True)
    source = knobs.get("source", "")
    knobs = {**knobs, "source": source if "://" in source else str(folder / source)}
    with pytest.raises(ConfigError, match=rf"^download\.datasets\[films\.1\]: (?!download)(?s:.*){says}"):
        cache = FileCache(tmp_path / "videos", max_bytes=1)
        listing(open_source(DatasetConfig(id="films.1", **knobs), work_dir=tmp_path / "work", cache=cache))


def test_what_is_wrong_while_a_source_is_read_names_its_data_set(tmp_path: Path, s3: WeedServer) -> None:
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


def test_what_is_wrong_with_the_use_of_a_file_is_not_blamed_on_its_data_set(tmp_path: Path) -> None:
    source = opened(make_files(tmp_path / "s", FILES), tmp_path / "work")
    with (
        pytest.raises(SanaError, match="^the store is full"),
        source.open_video("b.mp4", digest=digests(source)["b.mp4"]),
    ):
        raise SanaError("the store is full")
