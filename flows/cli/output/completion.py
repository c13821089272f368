"""What a shell completes beside commands, options and choices: configs, their keys, and runs of a local root."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
from click.shell_completion import CompletionItem

CONFIG_SUFFIXES = (".yaml", ".yml")
MOST = 200  # of one kind: a shell asks before it shows so many


class ConfigPath(click.Path):
    """The path of a config: the YAML files of the folder that is typed, or any file where it has none."""

    def __init__(self) -> None:
        super().__init__(dir_okay=False)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        found = configs_at(incomplete)
        return [CompletionItem(path) for path in found] or super().shell_complete(ctx, param, incomplete)


def configs_at(incomplete: str) -> list[str]:
    """Return the configs whose path begins so, in the folder that is typed so far."""
    folder, _, start = incomplete.rpartition("/")
    typed = f"{folder}/" if "/" in incomplete else ""
    try:
        names = sorted(entry.name for entry in os.scandir(typed or ".") if entry.name.endswith(CONFIG_SUFFIXES))
    except OSError:
        return []
    shown = [name for name in names if name.startswith(start) and (start or not name.startswith("."))]
    return [f"{typed}{name}" for name in shown if not any(mark.isspace() for mark in name)][:MOST]


def complete_key(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the keys of a config that begin so, for `-s KEY=VALUE`: what is below a list has no key to type."""
    if "=" in incomplete:
        return []
    return [CompletionItem(f"{key}=") for key in _keys() if key.startswith(incomplete)]


def _keys() -> Iterator[str]:
    from flows.display.config_reference import settings

    yield from dict.fromkeys(one.key for one in settings() if "*" not in one.key)


def local_roots(ctx: click.Context) -> list[Path]:
    """Return the local folder that `--root` names, else the one where a config has its root by default, if there."""
    root = ctx.params.get("root") or ".sana/store"
    return [] if "://" in root else [path for path in [Path(root)] if path.is_dir()]


def complete_place(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return what a source or a config may be: any file or folder."""
    return [CompletionItem(incomplete, type="file")]


def complete_run(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return configs and the runs of a local root that begin so, the newest first; a bucket is not asked for its."""
    return _configs_and(sorted(_folders(ctx, "runs"), reverse=True), incomplete)


def complete_training(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return configs, and the finished trainings and trajectories of a local root that begin so."""
    return _configs_and(sorted(_folders(ctx, "train")), incomplete)


def _folders(ctx: click.Context, place: str) -> list[str]:
    found: list[str] = []
    for root in local_roots(ctx):
        try:
            found += [entry.name for entry in os.scandir(root / place) if entry.is_dir() and entry.name != "history"]
        except OSError:
            continue
    return found


def _configs_and(names: Sequence[str], incomplete: str) -> list[CompletionItem]:
    known = [name for name in names if name.startswith(incomplete)][:MOST]
    found = [CompletionItem(name) for name in [*configs_at(incomplete), *known]]
    return found or [CompletionItem(incomplete, type="file")]
