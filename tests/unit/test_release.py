"""A tag that is not the version, a changelog without its date, and a version without its store are found."""

from pathlib import Path

import pytest

from tests.release import ROOT, STORES, problems

CHANGES = "# Changelog\n\n## 0.2.0 (2026-12-01)\n\n## 0.1.0 (2026-11-28)\n"


@pytest.mark.parametrize(
    ("tag", "changes", "stores", "wrong"),
    [
        ("v0.2.0", CHANGES, ["0.1.0"], []),
        ("v0.2.1", CHANGES, ["0.1.0"], ["the tag is v0.2.1 and the version in pyproject.toml 0.2.0"]),
        ("0.2.0", CHANGES, ["0.1.0"], ["the tag is 0.2.0"]),
        ("v0.2.0", CHANGES.replace("2026-12-01", "unreleased"), ["0.1.0"], ["'unreleased' of 0.2.0"]),
        ("v0.2.0", CHANGES.partition("## 0.1")[0].replace("0.2.0", "0.1.9"), [], ["the newest heading"]),
        ("v0.2.0", "# Changelog\n", [], ["is none"]),
        ("v0.2.0", CHANGES, [], ["store_0.1.0.tar.gz"]),
        ("v9", CHANGES.replace("2026-12-01", "soon"), [], ["the tag", "soon", "store_0.1.0"]),
    ],
)
def test_what_keeps_a_release(tmp_path: Path, tag: str, changes: str, stores: list[str], wrong: list[str]) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "x"\nversion = "0.2.0"\n')
    (tmp_path / "CHANGELOG.md").write_text(changes)
    (tmp_path / STORES).mkdir(parents=True)
    for version in stores:
        (tmp_path / STORES / f"store_{version}.tar.gz").touch()
    found = problems(tag, tmp_path)
    assert len(found) == len(wrong) and all(part in text for part, text in zip(wrong, found, strict=True)), found


def test_this_commit_lacks_at_most_its_date() -> None:
    version = (ROOT / "pyproject.toml").read_text().partition('\nversion = "')[2].partition('"')[0]
    assert [text for text in problems(f"v{version}") if "unreleased" not in text] == []
