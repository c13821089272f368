"""`sana demo` copies the demo and keeps what is there."""

import importlib.metadata
from pathlib import Path

import pytest

from flows.cli.begin import demo
from sana.errors import SanaError


def test_files_that_are_there_are_kept(tmp_path: Path) -> None:
    changed = tmp_path / "configs/demo.yaml"
    changed.parent.mkdir()
    changed.write_text("mine\n")
    demo.copy_demo(tmp_path)
    assert changed.read_text() == "mine\n"
    assert len(list((tmp_path / "configs/demo/clips").glob("*.mp4"))) == 16


def test_an_installation_without_the_demo_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "__file__", str(tmp_path / "flows/cli/begin/demo.py"))
    monkeypatch.setattr(importlib.metadata, "files", lambda name: None)
    with pytest.raises(SanaError, match="this installation has no demo files"):
        demo.copy_demo(tmp_path)


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SanaError, match="cannot write the demo to .*name another folder"):
        demo.copy_demo(tmp_path / "file")
