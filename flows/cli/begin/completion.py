"""`sana completion`: what makes a shell complete commands, options, stages, configs, their keys and runs."""

import sys

import click
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

# what puts it to use in every new shell
HOW = {
    "bash": 'add to ~/.bashrc:  eval "$(sana completion bash)"',
    "zsh": 'add to ~/.zshrc:  eval "$(sana completion zsh)"',
    "fish": "sana completion fish > ~/.config/fish/completions/sana.fish",
}
_KINDS: dict[str, type[ShellComplete]] = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}


@click.command()
@click.argument("shell", type=click.Choice([*HOW]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print what makes the shell complete commands, options, stages, configs and runs.

    bash: add `eval "$(sana completion bash)"` to ~/.bashrc; zsh: the same with zsh to ~/.zshrc; fish: write it to
    ~/.config/fish/completions/sana.fish.
    """
    click.echo(_KINDS[shell](ctx.find_root().command, {}, "sana", "_SANA_COMPLETE").source())
    if sys.stdout.isatty():
        click.echo(f"to have it in every shell, {HOW[shell]}", err=True)
