"""What all tests share. The environment is set before torch is imported: it reads some of it only once."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two threads on a busy machine run tiny models 12x slower
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("DO_NOT_TRACK", "true")

from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("laws", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("laws")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint with random weights in diffusers layout; read only."""
    from sana.model.tiny_model import build_tiny_model  # here: the light tests must not pay for diffusers

    out = tmp_path_factory.mktemp("models") / "tiny"
    build_tiny_model(out)
    return out
