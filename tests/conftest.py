"""What all tests share. The environment is set before torch is imported: it reads some of it only once."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two threads on a busy machine run tiny models 12x slower
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("DO_NOT_TRACK", "true")

import copy
import fcntl
import functools
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from sana.config import load

if TYPE_CHECKING:
    from tests.rank_pair import RankPair

sys.modules.setdefault("torchao", None)  # as in workers, see sana/runtime/worker_process.py

settings.register_profile("laws", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("laws")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none."""
    of_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if of_gpu:
        import torch  # here: the light tests must not pay for it

        if not torch.cuda.is_available():
            for item in of_gpu:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))


@pytest.fixture(autouse=True)
def _own_accelerator() -> Iterator[None]:
    """Each test may train in another precision: a process has one, which the first Accelerator sets."""
    yield
    if state := sys.modules.get("accelerate.state"):
        state.AcceleratorState._reset_state()


@pytest.fixture(scope="session", autouse=True)
def _yaml_read_once() -> Iterator[None]:
    """Parse a config's text once: PyYAML takes longer for the demo's than all checks of its values."""
    parsed = functools.lru_cache(maxsize=1000)(load.parse_yaml)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load, "parse_yaml", lambda text, *, where: copy.deepcopy(parsed(text, where=where)))
        yield


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Give the files whose tests fork processes to one worker: the server they are forked from takes ten seconds."""
    from xdist.scheduler import LoadFileScheduling

    class ForkingTogether(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "forking" if _forks(config.rootpath / file) else file

    return ForkingTogether(config, log) if config.getoption("dist") == "loadfile" else None


@functools.cache
def _forks(path: Path) -> bool:
    return bool(re.search(r"\bforked\b|\blab\.(start|run)\(|\bpair\.run\(", path.read_text(encoding="utf-8")))


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """Return a folder that `make` fills once for all processes of a test run; it is to be copied, never written to."""
    base = factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = shared / f"once-{name}"
    with (shared / f"once-{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            folder.mkdir()
            make(folder)
    return folder


@pytest.fixture(scope="session")
def tracking_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow store that nothing is in yet, `mlflow.db`: making one takes two seconds."""

    def make(folder: Path) -> None:
        from mlflow.tracking import MlflowClient

        MlflowClient(f"sqlite:///{folder / 'mlflow.db'}").search_experiments()

    return made_once(tmp_path_factory, "mlflow", make) / "mlflow.db"


@pytest.fixture(scope="session")
def prefect_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prefect's database before the first flow, `prefect.db`: its migrations take five seconds."""

    def make(folder: Path) -> None:
        command = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "-y"]
        subprocess.run(command, env={**os.environ, "PREFECT_HOME": str(folder)}, check=True, capture_output=True)

    return made_once(tmp_path_factory, "prefect", make) / "prefect.db"


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint with random weights in diffusers layout; read only."""
    from sana.model.tiny_model import build_tiny_model  # here: the light tests must not pay for diffusers

    out = tmp_path_factory.mktemp("models") / "tiny"
    build_tiny_model(out)
    return out


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny DINOv2 with random weights; read only."""
    from sana.model.tiny_model import build_tiny_encoder  # as above

    out = tmp_path_factory.mktemp("encoders") / "tiny"
    build_tiny_encoder(out)
    return out


@pytest.fixture(scope="session")
def pair() -> "Iterator[RankPair]":
    """Two ranks for all cases of this test process; see tests/rank_pair.py."""
    from tests.rank_pair import RankPair  # here: the light tests must not pay for torch

    ranks = RankPair()
    yield ranks
    ranks.end()
