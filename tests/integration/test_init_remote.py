"""`sana init` of what is elsewhere: a hub, a bucket, archives in one. No more is fetched than may be."""

from pathlib import Path

import pytest

from flows.wizard.asking import Proposals
from flows.wizard.flags import Flags
from flows.wizard.interview import Interview
from sana.config.load import load_config
from sana.config.pipeline import Config
from sana.data.sources.sample import SampleLimits
from sana.errors import SanaError
from sana.store import open_store
from tests.hub_server import HubServer
from tests.hub_sources import DATASET
from tests.packed_files import tar_of

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("in_empty_folder")]
FETCHED = SampleLimits(clips=3, remote_bytes=40_000)


@pytest.fixture
def remote_files(videos: list[Path]) -> dict[str, bytes]:
    """Three videos, one that is larger than all that may be fetched, and their captions."""
    files = {f"{name}.mp4": video.read_bytes() for name, video in zip("abc", videos, strict=True)}
    files["large.mp4"] = bytes(60_000)
    assert sum(map(len, files.values())) - 60_000 <= FETCHED.remote_bytes
    return files | {f"{name.partition('.')[0]}.txt": b"a test picture" for name in files}


def look_at(source: str) -> tuple[Config, str]:
    done = Interview(Flags(source), Proposals(lambda line: None), FETCHED).run()
    return load_config(done.path), done.path.read_text()


def test_of_a_hub_data_set_no_more_is_fetched_than_may_be(hub: HubServer, remote_files: dict[str, bytes]) -> None:
    hub.publish(DATASET, remote_files)
    config, text = look_at("hf://datasets/films/cats")
    assert (
        config.download.datasets[0].id == "cats" and "cats: 3 of 4 clips looked at in hf://datasets/films/cats" in text
    )
    assert not any("large.mp4" in request for request in hub.requests)


def test_of_a_bucket_no_more_is_fetched_than_may_be(s3_root: str, remote_files: dict[str, bytes]) -> None:
    store = open_store(s3_root)
    for name, data in remote_files.items():
        store.put_if_absent(f"clips/{name}", data)
    config, text = look_at(f"{s3_root}/clips")
    assert config.download.datasets[0].source == f"{s3_root}/clips" and "clips: 3 of 4 clips looked at" in text


def test_of_archives_in_a_bucket_the_small_ones_are_looked_into(s3_root: str, remote_files: dict[str, bytes]) -> None:
    store = open_store(s3_root)
    small = {name: data for name, data in remote_files.items() if name[0] in "abc"}
    store.put_if_absent("clips/train-0.tar", tar_of(small))
    store.put_if_absent("clips/train-1.tar", tar_of(remote_files))
    config, text = look_at(f"{s3_root}/clips")
    assert config.download.datasets[0].archive_files == () and "train-1.tar" not in text
    assert "of its archives 1 were looked into, such as train-0.tar" in text
    store.put_if_absent("large/train-1.tar", tar_of(remote_files))
    with pytest.raises(SanaError, match=r"has 1 archives, the smallest of .* and a first look reads 39.1 KiB at most"):
        look_at(f"{s3_root}/large")
