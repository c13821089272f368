"""What several integration tests share: a hub, a trained demo, a bench for the training loop.

What takes long to import is imported where it is used: the tests of the store must not pay for torch.
"""

import shutil
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.hub_server import HubServer
from tests.long_videos import make_long_video
from tests.maintained_stores import context_of
from tests.pipeline_runs import Outcome, Place, inline_workers, new_place, run_stages
from tests.video_files import make_video

if TYPE_CHECKING:
    from tests.training_lab import Lab
    from tests.training_store import Encoded


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub that this process's settings point to, with an empty Hugging Face cache and no token."""
    import huggingface_hub
    from huggingface_hub import constants

    from tests.hub_sources import go_online

    go_online(monkeypatch)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    with HubServer() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        yield server
        huggingface_hub.close_session()


@pytest.fixture(scope="session")
def film(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return what makes one of the long videos, once; read only."""
    return partial(make_long_video, tmp_path_factory.mktemp("films"))


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> tuple[Place, Outcome]:
    """The demo up to train, two steps of it; read only."""
    place = new_place(tmp_path_factory.mktemp("care"), tiny_model)
    with inline_workers():
        return place, run_stages(context_of(place), last="train")


@pytest.fixture
def place(trained: tuple[Place, Outcome], tmp_path: Path) -> Place:
    """A root of its own with the artifacts of `trained`, to do damage to."""
    shutil.copytree(trained[0].root, tmp_path / "root")
    return Place(trained[0].folder, trained[0].model, str(tmp_path / "root"))


@pytest.fixture(scope="session")
def training_store(tmp_path_factory: pytest.TempPathFactory) -> "Encoded":
    """A synthetic store; each test trains under a trajectory key of its own."""
    from tests.training_store import build_encoded

    return build_encoded(tmp_path_factory.mktemp("train") / "store")


@pytest.fixture
def own_sigterm() -> Iterator[None]:
    """The worker's handler must not restart_on_crash it in this process."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def lab(own_sigterm: None, training_store: "Encoded", tmp_path: Path, tiny_model: Path) -> "Lab":
    from tests.training_lab import Lab

    return Lab(training_store, tmp_path, tiny_model)


@pytest.fixture
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In an empty folder, with workers in this process."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with inline_workers():
        yield


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three short videos of different content."""
    folder = tmp_path_factory.mktemp("videos")
    return [make_video(folder / f"{name}.mp4", num_frames=num, width=160, height=96) for name, num in
            (("a", 33), ("b", 29), ("c", 25))]  # fmt: skip
