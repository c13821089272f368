"""`sana init`: from a source to a config, by a look at it and at this machine, and a few questions."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import click

from flows.cli.options import load_options, program
from flows.cli.output.json_output import emit, json_option
from flows.display.wrapping import say, terminal_width
from sana.errors import SanaError
from sana.wording import counted, without_controls


@click.command()
@click.argument("source", required=False)
@load_options
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The config to write; never one that is there.")
@click.option("--work-dir", help="Local folder for logs, caches and databases.")
@click.option("--model", help="Hugging Face id, or a folder in diffusers layout.")
@click.option("--method", type=click.Choice(["full", "lora"]), help="What learns; by itself what fits this machine.")
@click.option("--holdout", multiple=True, metavar="NAME", help="Hold out this file, source or glob; may be repeated.")
@click.option("--eval-fraction", type=click.FloatRange(0, 1, max_open=True), help="Hold out this part, by hash.")
@click.option("--prompt", "prompts", multiple=True, metavar="TEXT", help="Make videos of it; may be repeated.")
@click.option("--caption", metavar="TEXT", help="The caption of clips that have none.")
@click.option(
    "--caption-column", "caption_columns", multiple=True, metavar="NAME", help="Column of a table with captions."
)
@click.option("--experiment", help="MLflow experiment.")
@click.option(
    "--name", metavar="TEXT", help="Name of its runs; {config}, {method}, {dataset} and {date} are filled in."
)
@click.option("-y", "--yes", is_flag=True, help="Ask nothing: take what is proposed.")
@json_option("flows.cli.output.documents:InitDocument")
def init(
    source: str | None,
    overrides: Sequence[str],
    root: str | None,
    output: Path | None,
    work_dir: str | None,
    model: str | None,
    method: Literal["full", "lora"] | None,
    holdout: tuple[str, ...],
    eval_fraction: float | None,
    prompts: tuple[str, ...],
    caption: str | None,
    caption_columns: tuple[str, ...],
    experiment: str | None,
    name: str | None,
    yes: bool,
) -> None:
    """Write a config for SOURCE: looks at the videos and at this machine, and asks what it cannot know.

    SOURCE is a folder, a table, an archive, s3://bucket/prefix or hf://datasets/owner/name; of it at most 200 videos
    are opened. Each question has a flag, and an answer to begin with: `--yes` takes all of them. Only the config is
    written, and nothing is overwritten.
    """
    from flows.cli.output.documents import InitDocument
    from flows.wizard.asking import Proposals, Terminal
    from flows.wizard.flags import Flags
    from flows.wizard.interview import Interview

    flags = Flags(
        source, output, root, work_dir, model, method, holdout, eval_fraction, prompts, caption, caption_columns,
        experiment, name, tuple(overrides),
    )  # fmt: skip
    if holdout and eval_fraction is not None:
        raise SanaError("--holdout and --eval-fraction both say what is held out; give one")
    if not yes and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise SanaError(
            "there is no terminal to ask in: --yes takes what is proposed, and flags say the rest (SOURCE, -o, --root, "
            "--work-dir, --model, --method, --holdout or --eval-fraction, --prompt, --caption, --experiment, --name)"
        )
    if yes and source is None:
        raise SanaError("--yes asks nothing, so name the SOURCE: sana init path/to/clips --yes")
    asker = Proposals(_say) if yes else Terminal(_say)
    written = Interview(flags, asker).run()
    _say(f"\nwritten: {written.path}")
    if written.stopped:
        _say(f"{counted(len(written.stopped), 'thing')} would stop a run:")
        for problem in written.stopped:
            _say(f"  {problem}")
    _say("next:")
    first = ("check", "every file, by name") if written.is_sample else ("plan", "what would be done")
    steps = (first, ("run", "all of it; again: resumes"), ("watch", "in another terminal"))
    commands = [(f"{program()} {name} {shlex.quote(str(written.path))}", what) for name, what in steps]
    emit(InitDocument(str(written.path), tuple(written.stopped), tuple(command for command, _ in commands)))
    _say_commands(commands)
    if written.stopped:
        sys.exit(1)


def _say_commands(commands: Sequence[tuple[str, str]]) -> None:
    """Print commands, each with what it is for."""
    longest = max(len(command) for command, _ in commands)
    lines = [(f"  {command:{longest}}  # {what}", "") for command, what in commands]
    if 0 < terminal_width() < max(len(line) for line, _ in lines):  # broken, a comment would be run
        lines = [(f"  {what}: {command}", command) for command, what in commands]
    for line, command in lines:
        say(line, command=command)


def _say(text: str) -> None:
    """Print a text without the control characters of names."""
    say("\n".join(without_controls(line) for line in text.split("\n")))
