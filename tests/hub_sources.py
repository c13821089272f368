"""A data set and a model on the test hub, and a source that reads the data set."""

from pathlib import Path

import pytest
from huggingface_hub import constants

from sana.data.sources.source import Source
from tests.source_files import listing, opened

DATASET, MODEL = "datasets/films/cats", "models/labs/video"
FILES = {
    "README.md": b"# cats",
    ".gitattributes": b"*.mp4 filter=lfs",
    "a/one.mp4": b"video one" * 1000,
    "a/one.txt": "a cat, \u00e9l\u00e9gant".encode(),
    "two.MP4": b"not in LFS, by its name",
    "two.txt": b"\xef\xbb\xbfanother cat",
    "notes.txt": b"beside no video",
}
MODEL_FILES = {
    "model_index.json": b"{}",
    "README.md": b"# a model",
    "transformer/config.json": b'{"layers": 2}',
    "transformer/diffusion_pytorch_model.safetensors": b"weights" * 100,
    "vae/config.json": b"{}",
    "vae/diffusion_pytorch_model.safetensors": b"vae" * 100,
    "text_encoder/config.json": b"{}",
    "text_encoder/model.safetensors": b"text" * 100,
    "tokenizer/tokenizer.json": b"{}",
    "scheduler/scheduler_config.json": b"{}",
}


def go_online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


def go_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def cats(tmp_path: Path, *, revision: str = "main", read_only: bool = False, cache_bytes: int = 10**9) -> Source:
    """The data set DATASET, with its work_dir in `tmp_path`."""
    uri, work_dir = "hf://datasets/films/cats", tmp_path / "work"
    return opened(uri, work_dir, revision=revision, cache_bytes=cache_bytes, read_only=read_only)


def cached_files(tmp_path: Path) -> list[Path]:
    """The files in the cache of fetched videos, whole ones and parts."""
    folder = tmp_path / "work" / "cache" / "videos"
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".lock"))


def used(tmp_path: Path) -> int:
    """Bytes in the cache of fetched videos."""
    return sum(path.stat().st_size for path in cached_files(tmp_path))


def read_all(source: Source) -> dict[str, bytes]:
    found = {}
    for file in listing(source):
        with source.open_video(file.path, digest=source.digest(file)) as path:
            found[file.path] = path.read_bytes()
    return found
