"""`sana verify`, `gc`, `export` and `import`: maintenance of a store. They work on a root, with or without a config."""

import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from flows.cli.options import FiniteRange, context_of, load_options, open_root, program, resolve, same_options
from flows.cli.output.completion import ConfigPath
from flows.cli.output.json_output import emit, json_option
from flows.display.wrapping import say
from sana.errors import ConfigError, SanaError
from sana.pipeline.graph import STAGES, reads, stage
from sana.store import Store
from sana.wording import counted, in_units

if TYPE_CHECKING:
    from sana.maintenance.object_graph import Problem

F = TypeVar("F", bound=Callable[..., object])
HOUR_S, DAY_S = 3600.0, 86400.0
SHOWN = 20  # lines of one list, unless all are asked for


def root_options(command: F) -> F:
    """Add [CONFIG] with `-s key=value`, and `--root`: one of them names the root."""
    return click.argument("config", type=ConfigPath(), required=False)(load_options(command))


deep_option = click.option("--deep", is_flag=True, help="Also compare every byte of what is there already.")


@click.command()
@root_options
@click.option("--deep", is_flag=True, help="Read everything: the digest of each file and of each sample.")
@click.option("--invalidate", is_flag=True, help="Take back the records that need what is damaged or missing.")
@click.option("--list", "every", is_flag=True, help="List every orphan and problem, not the first of them.")
@json_option("flows.cli.output.documents:VerifyDocument")
def verify(
    config: str | None, overrides: Sequence[str], root: str | None, deep: bool, invalidate: bool, every: bool
) -> None:
    """Check that all that is committed is there and valid. Exit code 1 if not; then it says how to repair it.

    With --invalidate the next `sana run` makes again what was damaged, and only that.
    """
    from flows.cli.output.of_store import verify_document
    from flows.display.progress_display import RunDisplay
    from flows.display.tables import health_table
    from sana.maintenance.verify import invalidate as take_back
    from sana.maintenance.verify import verify as check

    store = _open(config, overrides, root)
    with RunDisplay() as display:
        health = check(store, deep=deep, report=display.reporter("verify", with_unit=True))
    if not health.stages:  # a mistyped root must not be called valid
        raise SanaError(f"there is nothing under {store.root}, so nothing was verified; is it the right root?")
    say(health_table(health, store))
    _list(_problem_lines(health.problems), every)
    _list([f"orphan: {thing.key}: {thing.why}" for thing in health.orphaned_objects], every)
    if health.superseded:
        say(f"{len(health.superseded)} problems are of records that later ones put out of use; they do no harm")
    if not health.problems:
        say("valid" if deep else "valid, by sizes, tables and headers; --deep reads every byte")
        emit(verify_document(health, store, deep=deep, invalidated=(), repair=""))
        return
    same = same_options(config or "CONFIG", overrides, root)
    run = f"{program()} run {same}"
    run = run if config else f"{run}, with the config that made it"
    gone, repair = list[str](), run if invalidate else ""
    if invalidate:
        gone = take_back(store, health.problems)
        say(f"{len(gone)} records were invalidated; to make again what they were of: {run}", command=run)
    elif any(problem.state != "unreadable" for problem in health.problems):
        where = same if config else shlex.join(["--root", str(root)])
        repair = f"{program()} verify {where}{' --deep' * deep} --invalidate, then: {run}"
        say(f"to repair: {repair}", command=repair)
    emit(verify_document(health, store, deep=deep, invalidated=gone, repair=repair))
    sys.exit(1)


@click.command()
@root_options
@click.option("--delete", is_flag=True, help="Really delete; without it, only say what would go.")
@click.option(
    "--grace-hours", default=24.0, show_default=True, type=FiniteRange(min=0.0),
    help="Keep what was written within this time: longer than a part takes to make.",
)  # fmt: skip
@click.option(
    "--artifacts-older-than", metavar="DAYS", type=FiniteRange(min=0.0),
    help="Also drop older artifacts, except CONFIG's, the newest of each stage and what kept ones read.",
)  # fmt: skip
@click.option(
    "--runs-older-than", metavar="DAYS", type=FiniteRange(min=0.0),
    help="Also drop records of runs that are silent for so long; of each kept training the newest 20 stay.",
)  # fmt: skip
@click.option("--list", "every", is_flag=True, help="List every object, not the first of them.")
@json_option("flows.cli.output.documents:GcDocument")
def gc(
    config: str | None,
    overrides: Sequence[str],
    root: str | None,
    delete: bool,
    grace_hours: float,
    artifacts_older_than: float | None,
    runs_older_than: float | None,
    every: bool,
) -> None:
    """Delete what nothing committed refers to: shards of no part, attempts that never committed, temporary files."""
    from flows.cli.output.of_store import gc_document
    from flows.display.progress_display import RunDisplay
    from flows.display.tables import orphaned_table
    from sana.maintenance.gc import OrphanedObject, delete_objects, find_orphaned_objects
    from sana.maintenance.object_graph import read_object_graph
    from sana.runs.old_records import old_run_records

    store, grace_s = _open(config, overrides, root), grace_hours * HOUR_S
    age_s = None if artifacts_older_than is None else artifacts_older_than * DAY_S
    with RunDisplay() as display:
        found = read_object_graph(store, report=display.reporter("gc", with_unit=True))
        in_use = _in_use(config, overrides, root) if config and age_s is not None else ()
        orphaned = find_orphaned_objects(found, grace_s=grace_s, artifacts_older_than_s=age_s, in_use=in_use)
        if runs_older_than is not None:
            dropped = {thing.key for thing in orphaned}
            orphaned += old_run_records(
                store, found, now=time.time(), older_than_s=runs_older_than * DAY_S, dropped=dropped
            )
        if delete:
            orphaned = delete_objects(store, found, orphaned, report=display.reporter("delete", with_unit=True))
        left = [
            OrphanedObject(*entry, "left by a killed put")
            for entry in store.incomplete_uploads(older_than_s=grace_s, delete=delete)
        ]
    emit(gc_document([*orphaned, *left], store, deleted=delete))
    if not orphaned and not left:
        say(f"{store.root}: nothing that is older than {grace_hours:g} h is to be deleted")
        return
    say(orphaned_table([*orphaned, *left], store))
    _list([f"{thing.key}: {thing.why}" for thing in [*orphaned, *left]], every)
    say("deleted" if delete else "nothing was deleted; to delete this, add --delete")


@click.command()
@root_options
@click.option("--to", "target", required=True, help="The root to copy to: a folder or s3://bucket/prefix.")
@click.option("--stage", "stages", multiple=True, type=click.Choice(STAGES), help="Only this, and what it reads.")
@deep_option
@json_option("flows.cli.output.documents:CopyDocument")
def export(
    config: str | None, overrides: Sequence[str], root: str | None, target: str, stages: Sequence[str], deep: bool
) -> None:
    """Copy what is committed to another root. A copy that was stopped resumes when run again."""
    staging = _staging(config, overrides)
    to = _open(None, (), target, named_by="--to", is_new=True)
    _copy(_open(config, overrides, root), to, stages, staging, "export", deep=deep)


@click.command("import")
@root_options
@click.option("--from", "source", required=True, help="The root to copy from: a folder or s3://bucket/prefix.")
@click.option("--stage", "stages", multiple=True, type=click.Choice(STAGES), help="Only this, and what it reads.")
@deep_option
@json_option("flows.cli.output.documents:CopyDocument")
def import_(
    config: str | None, overrides: Sequence[str], root: str | None, source: str, stages: Sequence[str], deep: bool
) -> None:
    """Copy what is committed from another root into this one. A copy that was stopped resumes when run again."""
    staging = _staging(config, overrides)
    into = _open(config, overrides, root, is_new=True)
    _copy(_open(None, (), source, named_by="--from"), into, stages, staging, "import", deep=deep)


COMMANDS = (verify, gc, export, import_)


def _in_use(config: str, overrides: Sequence[str], root: str | None) -> list[str]:
    """Return the folders of the artifacts that this config's stages would find cached."""
    from sana.pipeline.plan import committed

    states = committed(context_of(resolve(config, overrides, root), read_only=True))
    return [state.artifact.key for state in states if state.artifact is not None]


def _staging(config: str | None, overrides: Sequence[str]) -> Path | None:
    """Return the config's work_dir, for what is on its way; None without a config."""
    if config is None:
        return None
    from sana.pipeline.plan import check_work_dir

    staging = Path(resolve(config, overrides, None).work_dir).absolute()
    check_work_dir(staging)
    return staging


def _copy(source: Store, target: Store, stages: Sequence[str], staging: Path | None, name: str, *, deep: bool) -> None:
    from flows.cli.output.of_store import copy_document
    from flows.display.progress_display import RunDisplay
    from sana.maintenance.copy import copy_root

    with RunDisplay() as display:
        report = display.reporter(name, with_unit=True)
        done = copy_root(source, target, stages=_with_inputs(stages), staging=staging, deep=deep, report=report)
    say(
        f"{source.root} -> {target.root}: {done.num_copied} objects copied ({in_units(done.num_bytes)}), "
        f"{done.num_present} were there"
        + ("" if deep or not done.num_present else ", compared in part (all of it: --deep)")
    )
    emit(copy_document(done, source, target))
    if done.kept:
        say(f"{len(done.kept)} records that the target has made itself stay, {done.kept[0]} the first")
    command = f"{program()} runs --root {shlex.quote(target.root)}"
    say(f"next, what is there now: {command}", command=command)


def _with_inputs(stages: Sequence[str]) -> set[str]:
    """Return the stages and all they read, or every stage for none."""
    wanted = set(stages or STAGES)
    for name in reversed(STAGES):
        if name in wanted:
            wanted |= {above for above in STAGES[: STAGES.index(name)] if {*stage(above).GIVES} & {*reads(name)}}
    return wanted


def _open(
    config: str | None, overrides: Sequence[str], root: str | None, *, named_by: str = "--root", is_new: bool = False
) -> Store:
    """Open the root of --root or of a config; `is_new`: it may be made."""
    if config is None and (root is None or overrides):
        raise ConfigError("name a config, or a root by --root" if root is None else "-s changes a config, so name one")
    if root is not None:
        return open_root(root, named_by=named_by, is_new=is_new)
    return open_root(resolve(str(config), overrides, None).root, named_by=f"root of {config}", is_new=is_new)


def _problem_lines(problems: "Sequence[Problem]") -> list[str]:
    """Return one line for each object that something is wrong with, however many records need it."""
    by_object: dict[tuple[str, str, str], list[str]] = {}
    for problem in problems:
        by_object.setdefault((problem.state, problem.key, problem.what), []).append(problem.by)
    lines = []
    for (state, key, what), records in by_object.items():
        others = len(records) - 1
        more = f" and {counted(others, 'more record')}" if others else ""
        delete = "; if no later version of this software wrote it, delete it by hand" if state == "unreadable" else ""
        lines.append(f"{state}: {key}: {what}; needed by {records[0]}{more}{delete}")
    return lines


def _list(lines: Sequence[str], every: bool) -> None:
    for line in lines if every else lines[:SHOWN]:
        say(line)
    if len(lines) > SHOWN and not every:
        say(f"... and {len(lines) - SHOWN} more: --list shows all")
