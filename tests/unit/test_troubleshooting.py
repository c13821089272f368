"""What docs/troubleshooting.md quotes is what the code says: each quoted message is found in it, or is a known name."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from sana.config.load import load_config
from sana.data.schemas import Reason
from sana.errors import ConfigError

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "troubleshooting.md"
DEMO = """
model: {path: x}
download: {datasets: [{id: a, source: b}]}
bucket: {buckets: [17x96x160], eval_fraction: 0.0}
train: {max_steps: 1, global_batch_size: 1, learning_rate: 1e-3}
sample: {bucket: 17x96x160, prompts: {a: b}}
"""
OF_OTHERS = {"no kernel image is available"}  # torch's own words
HOLE = "\0"  # what a message is filled in with


def quoted() -> list[str]:
    """Return what stands in backticks in the first column of the page's tables; ... stands for values."""
    rows = re.findall(r"^\| (.+?) \| .+ \| .+ \|$", PAGE.read_text(), re.MULTILINE)
    return [code for row in rows for code in re.findall(r"`([^`]+)`", row)]


@cache
def said() -> str:
    """Return every text of the code, a line each, with holes where values go."""
    texts = []
    for path in (path for folder in ("sana", "tasks", "flows") for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node] if isinstance(node, ast.Constant) else []
            words = [str(part.value) if isinstance(part, ast.Constant) else HOLE for part in parts]
            texts.append("".join(words).replace("\n", " "))
    return "\n".join(texts)


def test_the_page_quotes_messages() -> None:
    assert len(quoted()) >= 20


@pytest.mark.parametrize("message", sorted(set(quoted()) - OF_OTHERS))
def test_each_quoted_message_is_in_the_code(message: str) -> None:
    if message in set(Reason):
        return
    pattern = r"[^\n]*?".join(re.escape(part.strip()) for part in message.split("..."))
    assert re.search(pattern, said()), f"{PAGE.name} quotes a message that nothing says: {message}"


@pytest.mark.parametrize("message", ["there is no configuration", "the trainer holds the lease"])
def test_what_nothing_says_is_found_out(message: str) -> None:
    assert message not in said()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "there is no config"),
        ("downlaod: {}", "unknown key; "),
        ("a: [", "is not valid YAML: "),
        (DEMO, "nothing would be held out for the eval loss"),
    ],
)
def test_mistakes_in_a_config_are_told_as_the_page_says(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "my.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(str(path))
    assert message in str(caught.value) and any(message in one for one in quoted())
