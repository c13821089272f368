"""What the pages name is there: files, links, modules, commands with their options, config keys, names in code."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import is_dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import click
import pytest

from flows.display.output_reference import WITHOUT, commands, document_of, lines
from sana.config.renamed_keys import RENAMED_KEYS, RENAMED_VALUES
from sana.record import Record
from tests.command_lines import check_command, resolve_command
from tests.config_keys import dotted

ROOT = Path(__file__).parents[2]
PAGES = sorted(path for folder in (".", "docs", "examples", ".github") for path in (ROOT / folder).glob("*.md"))
WORDED = [*PAGES, *(ROOT / "configs").glob("*.yaml"), *(ROOT / "examples").glob("*.yaml"), ROOT / "prefect.yaml"]
TOP = "sana|tasks|flows|tests|configs|docs|examples|benchmarks"
NOT_OURS = {"hf_hub_download", "num_repeats", "to_pandas"}  # names of others that pages quote
TO_BE_WRITTEN = {"sana/stages/filter_duration.py"}  # what a page tells its reader to write
OLD_WORDS = r"\b(knobs?|films?|anew|heals?|late windows?|averaged weights|refused|litter|leavings|twins?|goes on)\b"

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))


def inline_code(page: Path) -> list[str]:
    """What is between single backticks, outside of fenced blocks and of the changelog's table of old names."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    if page.name == "CHANGELOG.md":
        text = re.sub(r"^\|.*\n", "", text, flags=re.MULTILINE)
    return [re.sub(r"\s+", " ", code) for code in re.findall(r"`([^`]+)`", text)]


def blocks(page: Path) -> list[str]:
    """The lines of fenced and indented blocks."""
    text = page.read_text()
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    return [line for block in fenced for line in block.splitlines()] + re.findall(r"^ {6}(\S.*)$", text, re.MULTILINE)


@cache
def files() -> tuple[str, ...]:
    """Every file of the project and every folder of one, relative to its root."""
    found = [path for name in (*TOP.split("|"), ".github") for path in (ROOT / name).rglob("*")]
    return tuple(str(path.relative_to(ROOT)) for path in found if "__pycache__" not in path.parts)


@cache
def words_of_code() -> frozenset[str]:
    """Every identifier in the project's code and configs, these tests apart."""
    suffixes = (".py", ".yaml", ".toml", ".j2")
    paths = [ROOT / name for name in files() if name.endswith(suffixes)] + [ROOT / "pyproject.toml"]
    text = "\n".join(path.read_text() for path in paths if path != Path(__file__).resolve())
    return frozenset(re.findall(r"\w+", text))


def leaves() -> set[str]:
    return {key.rpartition(".")[2] for key in dotted()}


@each_page
def test_files_and_links_are_there(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert "://" in link or (page.parent / link).exists(), f"{page.name} links {link}"
    named = [code for code in inline_code(page) if re.fullmatch(rf"(?:{TOP})/[\w./<>*-]*", code)]
    named += [path for line in blocks(page) for path in re.findall(rf"(?<![\w/.:])(?:{TOP})/[\w./-]+\.\w+", line)]
    for path in set(named) - TO_BE_WRITTEN:
        assert list(ROOT.glob(re.sub("<.*?>", "*", path.rstrip("/")))), f"{page.name} names {path}"
    for name in {code for code in inline_code(page) if re.fullmatch(r"[\w/]+\.py", code)} - TO_BE_WRITTEN:
        assert any(f"/{path}".endswith(f"/{name}") for path in files()), f"{page.name} names {name}"


@each_page
def test_modules_are_there(page: Path) -> None:
    for module in re.findall(r"-m ((?:sana|tasks|flows|tests|benchmarks)[\w.]*)(?!\S*<)", page.read_text()):
        assert find_spec(module.rstrip(".")), f"{page.name} runs {module}"


def quoted(page: Path) -> Iterator[tuple[str, bool]]:
    """Each quoted `sana ...`, and whether it is a whole command line."""
    for line in blocks(page):
        found = re.search(r"(?:^|\s)sana\s(.+)", line)
        if found and re.match(r"(sana|srun|\w+=)", line):
            yield found[1], True
    for code in inline_code(page):
        if code.startswith("sana "):
            yield code.removeprefix("sana "), False


@each_page
def test_commands_and_options_are_there(page: Path) -> None:
    for text, whole in quoted(page):
        if "|" in text:  # `sana verify | gc | export`
            words, names, options, whole = [], re.findall(r"[a-z-]+", text), [], False
        else:
            words = shlex.split(re.sub(r"[\[\]]", " ", text), comments=True)
            names, options = words[:1], [word for word in words[1:] if re.match(r"--?[a-z]", word)]
        try:
            commands = [resolve_command([name])[1] for name in names]
            if isinstance(commands[0], click.Group):
                commands = [resolve_command(words)[1]]
            known = {option for command in commands for one in command.params for option in one.opts}
            assert set(options) <= known, f"{page.name}: `sana {text}`: {names} has no {set(options) - known}"
            if whole:
                check_command(words)
        except click.UsageError as error:
            pytest.fail(f"{page.name}: `sana {text}`: {error.format_message()}")


@each_page
def test_config_keys_are_there(page: Path) -> None:
    keys = dotted()
    sections = "|".join(sorted({key.partition(".")[0] for key in keys}))
    for code in inline_code(page):
        key = re.sub(r"\[\w*\]|\[<.*?>\]|(?<=datasets)\.(<\w+>|ID)", ".*", code).partition("=")[0].partition(": ")[0]
        key = key.removesuffix(".<key>").removesuffix(".*")
        if re.fullmatch(rf"(?:{sections})(?:\.[a-z_0-9*]+)+", key) and not re.search(r"\.(py|json|yaml|parquet)$", key):
            assert key in keys, f"{page.name} names the key {code}"
        setting = re.fullmatch(r"([a-z_]+): [\w.]+", code)
        if setting and page.name != "coming-from-simpletuner.md":
            assert setting[1] in leaves() | NOT_OURS, f"{page.name} names the setting {code}"
    for key in re.findall(r"-s ([a-z_]+(?:\.\w+)+)=", page.read_text()):
        assert re.sub(r"(?<=datasets)\.\w+", ".*", key) in keys, f"{page.name} sets {key}"


@each_page
def test_names_are_those_of_the_code(page: Path) -> None:
    """Columns, settings, reasons, functions: every name with an underscore that a page quotes."""
    code = [text for text in inline_code(page) if not re.search(r"[/<]|://", text)]
    names = {name for text in code for name in re.findall(r"\b[A-Za-z]+(?:_[A-Za-z]+)+\b", text)}
    unknown = names - words_of_code() - NOT_OURS
    assert not unknown, f"{page.name} quotes {unknown}"


def test_the_changelog_has_every_renamed_key() -> None:
    rows = re.findall(r"^\| `([^`|]+)` \| `([^`|]+)` \|$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert {old: new for old, new in rows if old.partition(".")[0] in {k.partition(".")[0] for k in dotted()}} == (
        RENAMED_KEYS
    )


@pytest.mark.parametrize("page", WORDED, ids=lambda path: str(path.relative_to(ROOT)))
def test_pages_use_the_words_of_the_glossary_and_todays_names(page: Path) -> None:
    text = re.sub(r"`[^`]*`", "", page.read_text())
    assert not re.findall(OLD_WORDS, text, re.IGNORECASE), f"{page.name}: see docs/glossary.md"
    if page.name not in ("CHANGELOG.md", "quickstart-keys.md"):  # this one has names of another trainer
        old = {key.rpartition(".")[2] for key in RENAMED_KEYS} - leaves()
        gone = {f"{key.rpartition('.')[2]}: {value}" for key, values in RENAMED_VALUES.items() for value in values}
        gone |= {name for name in old if "_" in name}
        assert not [name for name in gone if re.search(rf"\b{name}\b", page.read_text())]


@pytest.mark.parametrize(("name", "command"), commands(), ids=[name for name, _ in commands()])
def test_every_command_has_json_or_a_reason_not_to(name: str, command: click.Command) -> None:
    document = document_of(command)
    assert (document is None) == (name in WITHOUT), f"{name}: add json_option to it, or a reason to WITHOUT"
    if document is not None:
        assert issubclass(document, Record) and is_dataclass(document)


def test_the_page_of_what_programs_read_is_made_of_the_code() -> None:
    page = (ROOT / "docs/cli-output.md").read_text()
    assert page == "\n".join(lines()) + "\n", "python -m flows.display.output_reference > docs/cli-output.md"
