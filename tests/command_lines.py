"""`sana` commands as pages and examples quote them: parsed, never run."""

import click

from flows.cli.main import cli


def resolve_command(words: list[str]) -> tuple[str, click.Command, list[str]]:
    """Return the command's name, the command and its arguments; of a group's the command that it names, if it does.

    Raises:
        click.UsageError: there is no such command.
    """
    name, command, rest = cli.resolve_command(click.Context(cli, info_name="sana"), words)
    assert name is not None and command is not None
    if isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        name, command, rest = command.resolve_command(click.Context(command, info_name=name), rest)
        assert name is not None and command is not None
    return name, command, rest


def check_command(words: list[str]) -> click.Context:
    """Parse a command line as `sana` does.

    Raises:
        click.UsageError: no such command or option, or a value that it does not take.
    """
    name, command, rest = resolve_command(words)
    return command.make_context(name, rest, parent=click.Context(cli, info_name="sana"))
