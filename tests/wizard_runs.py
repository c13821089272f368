"""Calls of `sana init` in the working folder, and what they wrote."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from flows.cli.main import cli
from flows.wizard.asking import Terminal
from flows.wizard.flags import Flags
from flows.wizard.interview import Interview
from sana.config.load import load_config
from sana.config.pipeline import Config
from sana.errors import SanaError

ENTER, CTRL_C, DOWN = "\r", "\x03", "\x1b[B"
# of a source that is given: root, work_dir, model, method, hold-out, prompt, another, experiment, name, file
QUESTIONS = 10


def init(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["init", *arguments, "--yes"], catch_exceptions=False)


def refused(*arguments: str) -> str:
    with pytest.raises(SanaError) as caught:
        init(*arguments)
    return str(caught.value)


def written() -> dict[str, Config]:
    """The configs in the working folder, each of which loads."""
    return {path.name: load_config(path) for path in sorted(Path().glob("*.yaml"))}


def put(folder: Path, videos: list[Path], names: tuple[str, ...] = ("a", "b", "c"), captions: bool = True) -> Path:
    for name, video in zip(names, videos, strict=False):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(video, folder / f"{name}.mp4")
        if captions:
            (folder / f"{name}.txt").write_text(f"a test picture, {len(name)}")
    return folder


def asked(keys: str, source: Path, said: Callable[[str], None] = lambda line: None) -> Interview:
    with create_pipe_input() as pipe:
        pipe.send_text(keys)
        made = Interview(Flags(str(source)), Terminal(said, input=pipe, output=DummyOutput()))
        made.run()
    return made
