"""Every example loads, shows what its name promises, is short, and quotes commands that exist."""

import itertools
import re
import shlex
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import click
import pytest

from sana.config.load import load_config
from sana.config.pipeline import Config
from sana.data.sources.listing import TABLE_SUFFIXES
from tests.command_lines import check_command

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
PAGES = [*EXAMPLES, ROOT / "examples/two_machines.sh"]


def _sources(config: Config) -> list[str]:
    return [dataset.source for dataset in config.download.datasets]


def _ranks_of_two_machines() -> int:
    """Ranks that the script starts: as many on each machine as it has GPUs."""
    text = (ROOT / "examples/two_machines.sh").read_text()
    found = [re.search(rf"{option} (\d+)", text) for option in ("--nodes", "--gpus-per-node", "srun --ntasks")]
    machines, gpus, ranks = (int(match[1]) for match in found if match)
    assert ranks == machines * gpus
    return ranks


PROMISES: dict[str, dict[str, Callable[[Config], bool]]] = {
    "local_folder": {
        "no path is remote": lambda c: not any("://" in place for place in (c.root, *_sources(c))),
        "captions are .txt": lambda c: c.download.datasets[0].captions.layout == "textfile",
    },
    "s3_bucket": {
        "root and source are in S3": lambda c: all(place.startswith("s3://") for place in (c.root, *_sources(c))),
        "neither is inside the other": lambda c: (
            not any(f"{a}/".startswith(f"{b}/") for a, b in itertools.permutations((c.root, *_sources(c)), 2))
        ),
    },
    "hugging_face": {"the source is on the hub": lambda c: _sources(c)[0].startswith("hf://datasets/")},
    "two_machines": {
        "root, source and work_dir are the same path on both": lambda c: all(
            place.startswith(("/", "s3://")) for place in (c.root, c.work_dir, *_sources(c))
        ),
        "work_dir is not shared": lambda c: Path(c.root).parts[:2] != Path(c.work_dir).parts[:2],
        "the batch divides": lambda c: c.train.global_batch_size % _ranks_of_two_machines() == 0,
        "each GPU encodes": lambda c: c.encode_latents.resources.num_workers > 1,
    },
    "several_data_sets": {
        "each role": lambda c: {d.role for d in c.download.datasets} == {"train", "split", "eval"},
        "repeats": lambda c: any(d.repeats > 0 for d in c.download.datasets),
        "a sampling weight": lambda c: any(d.sampling_weight != 1 for d in c.download.datasets),
        "own bucket rules": lambda c: any(d.bucket is not None for d in c.download.datasets),
        "a table, with names of columns": lambda c: any(
            d.source.endswith(TABLE_SUFFIXES) and d.captions.columns for d in c.download.datasets
        ),
    },
}


def test_each_example_has_promises_and_a_line_in_the_list() -> None:
    assert {path.stem for path in EXAMPLES} == set(PROMISES)
    listed = re.findall(r"^- \[(.+?)\]\(\1\)", (ROOT / "examples/README.md").read_text(), re.MULTILINE)
    notebooks = (ROOT / "examples").glob("*.ipynb")
    assert sorted(listed) == sorted(path.name for path in (*EXAMPLES, *notebooks))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_keeps_the_promises_of_its_name(path: Path) -> None:
    config = load_config(path)
    assert not [promise for promise, holds in PROMISES[path.stem].items() if not holds(config)]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short_and_says_why(path: Path) -> None:
    """At most 50 lines, none that sets a default, each value with its reason beside it."""
    lines = path.read_text().splitlines()
    assert len(lines) <= 50 and max(map(len, lines)) <= 120
    config = load_config(path)
    assert config.model_dump(exclude_unset=True) == config.model_dump(exclude_defaults=True)
    values = [line for line in lines if re.search(r"^[ -]*\w+: ", line)]
    assert len(values) > 5 and not [line for line in values if " # " not in line]


def quoted_commands(path: Path) -> list[list[str]]:
    """The arguments of every `sana ...` that a script runs, or that a config quotes behind `#   `."""
    lines = path.read_text().splitlines()
    if path.suffix == ".yaml":
        lines = [line.removeprefix("#") for line in lines if line.startswith("#   ")]
    found = []
    for line in lines:
        if line.startswith("#") or not re.search(r"(^|\s)sana\s", line):
            continue
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        behind = itertools.dropwhile(lambda word: word != "sana", lexer)
        found.append(list(itertools.takewhile(lambda word: word.strip("|&;()"), behind))[1:])
    return found


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_quoted_commands_exist_and_name_the_example(path: Path) -> None:
    commands = quoted_commands(path)
    assert len(commands) >= 2
    for words in commands:
        parsed = check_command(words).params
        assert parsed.get("config", parsed.get("place")) == f"examples/{path.stem}.yaml"
        load_config(path.with_suffix(".yaml"), parsed.get("overrides", ()))  # -s of an unknown setting fails
    for module in re.findall(r"-m (\S+)", path.read_text()):
        assert find_spec(module), f"{path.name}: there is no module {module}"


@pytest.mark.parametrize("wrong", ["rn x.yaml", "run x.yaml --untill bucket", "run x.yaml --until latents", "run"])
def test_a_command_that_does_not_exist_is_found(wrong: str) -> None:
    with pytest.raises(click.UsageError):
        check_command(shlex.split(wrong))
