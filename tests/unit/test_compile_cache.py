"""Compiled code is kept where the run says, not where torch does by itself."""

import os
import tempfile
from pathlib import Path

import pytest

from sana.model.device import use_compile_cache


@pytest.mark.parametrize(
    ("named", "is_left"),
    [
        (None, False),
        ("", False),
        (f"{tempfile.gettempdir()}/torchinductor_somebody", False),  # torch's own, since its compiler was imported
        ("/scratch/compiled", True),
    ],
)
def test_a_folder_that_only_torch_named_gives_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str | None, is_left: bool
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", named or "")
    if named is None:
        monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    use_compile_cache(tmp_path)
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == (named if is_left else str(tmp_path))


def test_torch_keeps_its_code_in_that_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    cache_dir()  # as importing the compiler does
    use_compile_cache(tmp_path / "compiled")
    assert cache_dir() == str(tmp_path / "compiled")
