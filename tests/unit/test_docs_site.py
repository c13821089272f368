"""The docs site: built strictly, every page in its navigation, nothing from the network, links as in the repository."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CONFIG = (ROOT / "mkdocs.yml").read_text()


def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs/site/hooks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(folder)]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_is_in_the_navigation() -> None:
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} | set(hooks().PAGES)
    nav = re.findall(r"([\w-]+\.md)$", CONFIG[CONFIG.index("\nnav:") :], re.MULTILINE)
    assert sorted(nav) == sorted(pages)


def test_nothing_is_loaded_from_the_network(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 35
    for page in pages:
        loaded = re.findall(r"<(?:script|img|iframe|video)\b[^>]*\bsrc=\"?([^\"\s>]+)", page.read_text())
        loaded += re.findall(
            r"<link\b[^>]*rel=\"?(?:stylesheet|preconnect|icon)[^>]*href=\"?([^\"\s>]+)", page.read_text()
        )
        assert loaded and not [one for one in loaded if re.match(r"(https?:)?//", one)], page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"@import|url\(\s*['\"]?(https?:)?//", sheet.read_text()), sheet


@pytest.mark.parametrize(
    ("page", "words"),
    [
        ("commands", ["sana schema", "sana compare", "--force", "--root"]),
        ("api", ["open_run", "eval_table", "RunReader", "Observer"]),
        ("config", ["train.learning_rate", "download.datasets.*.source"]),
        ("first-run", ["sana init clips", "sana compare"]),
        ("changelog", ["The cockpit"]),
        ("examples", ["local_folder.yaml"]),
    ],
)
def test_generated_pages_have_their_content(site: Path, page: str, words: list[str]) -> None:
    text = re.sub(r"<[^>]*>", "", (site / page / "index.html").read_text())
    assert not [word for word in words if word not in text] and "Sentinel" not in text


def test_links_out_of_the_docs_become_pages_or_paths() -> None:
    relinked = hooks().relinked
    assert relinked("[a](docs/config.md#train) [b](CONTRIBUTING.md)", folder="") == (
        "[a](config.md#train) [b](contributing.md)"
    )
    assert relinked(
        "[a](../configs/demo.yaml) [b](memory-and-speed.md#x) [c](https://x/y.md) [d](#here)", folder="docs"
    ) == ("a (`configs/demo.yaml`) [b](memory-and-speed.md#x) [c](https://x/y.md) [d](#here)")
    assert relinked("![p](docs/report.png)", folder="") == "![p](report.png)"


def test_every_setting_of_the_site_is_yaml() -> None:
    values = yaml.safe_load(CONFIG)
    assert values["strict"] is True and values["theme"]["font"] is False
