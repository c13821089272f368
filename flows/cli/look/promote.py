"""`sana promote`: make a trained model the champion of MLflow's registry, if it is surely better."""

from collections.abc import Sequence

import click

from flows.cli.look.compare import Asked, is_config
from flows.cli.options import context_of, load_options, resolve
from flows.cli.output.exit_codes import TryAgainError
from flows.cli.output.json_output import emit, json_option
from flows.display.wrapping import say
from sana.errors import ConfigError, SanaError


@click.command()
@click.argument("name")
@load_options
@click.option("--config", type=click.Path(dir_okay=False), help="Whose MLflow, root and registered model are meant.")
@click.option("--dry-run", is_flag=True, help="Say what would be decided; change nothing.")
@click.option("--force", "forced", metavar="REASON", help="Move the alias whatever the losses say; the reason is kept.")
@json_option("sana.comparison.promotion:PromoteDocument")
def promote(
    name: str, overrides: Sequence[str], root: str | None, config: str | None, dry_run: bool, forced: str | None
) -> None:
    """Give a trained model the alias champion in MLflow's registry, if it is surely better than the one that has it.

    NAME is a config, or a training's fingerprint or the beginning of it with --config. Both must have been evaluated on
    the same eval list and have the same base, and the paired difference of their eval losses must be below 0 by 2
    standard errors; the first model is champion at once. Otherwise nothing moves, and the exit code is 1.
    """
    settings = config or (name if is_config(name) else None)
    if settings is None:
        raise ConfigError(f"{name} is no config; --config CONFIG says which MLflow and root are meant")
    context = context_of(resolve(settings, overrides, root), read_only=True)
    trained = Asked(context, root, tuple(overrides), "ema").subject(name)
    if trained.trained is None or not trained.is_trained:
        raise SanaError(f"{name} is not what a training ended with, and only that is a version of the registry")
    from sana.comparison.promotion import PromoteDocument
    from tasks.tracking.promotion import promote_in_mlflow
    from tasks.tracking.trouble import TrackerAwayError

    fingerprint = trained.trained.fingerprint
    try:
        decided = promote_in_mlflow(context, fingerprint, dry_run=dry_run, forced=forced or "")
    except TrackerAwayError as error:
        raise TryAgainError(str(error)) from error
    decision = decided.decision
    assert decision is not None
    moved = decision.moves and not dry_run
    emit(PromoteDocument(decided.name, decided.version, fingerprint, decided.champion, moved, dry_run, decision))
    if decision.moves:
        would = "would be" if dry_run else "is"
        say(f"{decided.name}: {fingerprint} {would} champion: {decision.reason}")
        return
    stays = f"; version {decided.champion} stays champion" if decided.champion else ""
    said = f"{decided.name}: {fingerprint} is not made champion: {decision.reason}{stays}"
    if not dry_run:
        raise SanaError(said)
    say(said)
