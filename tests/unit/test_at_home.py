"""Paths that users write: which `~` is a home folder, and which a name."""

from pathlib import Path

import pytest

from sana.config.places import at_home


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("~/a", "/home/x/a"),
        ("~", "/home/x"),
        ("./~", "~"),
        ("./~nosuchuser", "~nosuchuser"),
        ("~nosuchuser/a", "~nosuchuser/a"),
        ("a~b", "a~b"),
    ],
)
def test_at_home(path: str, meant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/x")
    assert at_home(path) == Path(meant)
