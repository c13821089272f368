"""`sana plan` and `sana validate`: what would be done and why, and whether it could be."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from flows.cli.options import (
    FiniteRange,
    config_options,
    context_of,
    program,
    rehash_files,
    rehash_option,
    resolve,
    same_options,
    to_be_pasted,
    warn,
    warned,
)
from flows.cli.output.json_output import emit, is_json, json_option
from flows.display.wrapping import say
from sana.context import Context
from sana.errors import ConfigError, SanaError
from sana.pipeline.graph import STAGES

if TYPE_CHECKING:
    from sana.pipeline.plan import StagePlan


@click.command()
@config_options
@click.option("--until", type=click.Choice(STAGES), help="Plan up to this stage.")
@click.option("--force", multiple=True, type=click.Choice(STAGES), help="As if this stage were to run again.")
@click.option(
    "--price-per-hour", type=FiniteRange(min=0.0), help="Of this machine, in any currency: say what a run costs."
)
@rehash_option
@json_option("sana.pipeline.plan_record:PlanRecord")
def plan(
    config: str,
    overrides: Sequence[str],
    root: str | None,
    until: str | None,
    force: Sequence[str],
    price_per_hour: float | None,
    rehash: bool,
) -> None:
    """Say per stage: cached, partial, stale (and why), missing or pending. Writes nothing.

    What would run is shown with its time, the bytes it writes and its peak memory: measured here by `sana calibrate`,
    or estimated.
    """
    from flows.display.show import plan_table
    from sana.pipeline.advisor import Advisor
    from sana.pipeline.plan import all_cached
    from sana.pipeline.plan import plan as decide

    settings = resolve(config, overrides, root)
    context = context_of(settings, read_only=True)
    rehashed = rehash_files(context) if rehash else None
    plans = decide(context, last=until, force=force, rehashed=rehashed)
    if is_json():
        _print_json(context, plans, price_per_hour)
        return
    say(plan_table(plans))
    options = "".join([*(f" --force {name}" for name in force), f" --until {until}" if until else ""])
    options += " --rehash" if rehash else ""
    if rehashed and rehashed.is_model_changed:
        say(f"a file of model.path {settings.model.path} changed, and kept size and time: a run takes the new one")
    if stop := next((stage_plan for stage_plan in plans if stage_plan.stops), None):
        say(f"a run would stop: {stop.stops}")
    elif all_cached(plans):
        say("nothing to do")
    else:
        _say_costs(context, plans, price_per_hour)
        Advisor(settings, warn).advise_on(plans)
        command = f"{program()} run {same_options(config, overrides, root)}{options}"
        say(f"to do it: {command}", command=command)


def _print_json(context: Context, plans: "Sequence[StagePlan]", price_per_hour: float | None) -> None:
    """Print a plan as one JSON object. Raises ConfigError, once it is printed: it was measured not to fit."""
    from flows.display.costs import warnings_of
    from sana.pipeline.advisor import Advisor
    from sana.pipeline.costs import not_trainable, plan_costs
    from sana.pipeline.plan import all_cached
    from sana.pipeline.plan_record import plan_record, remedies_of

    stops = next((str(one.stops) for one in plans if one.stops), "")
    costs, refused, warnings, remedies = None, "", list[str](), list[str]()
    if not stops and not all_cached(plans):
        try:
            costs = plan_costs(context, plans)
        except SanaError as error:  # as in `_say_costs`
            warnings.append(f"what it would take is not known: {error}")
        else:
            refused = not_trainable(context, plans)
            warnings += map(to_be_pasted, warnings_of(costs))
            remedies += map(to_be_pasted, remedies_of(costs))
        Advisor(context.config, warnings.append).advise_on(plans)
    made = plan_record(plans, costs, price_per_hour, stops=stops or refused, warnings=warnings, remedies=remedies)
    emit(made)
    if refused:
        raise ConfigError(refused)


def _say_costs(context: Context, plans: "Sequence[StagePlan]", price_per_hour: float | None) -> None:
    """Show what the plan would take. Raises ConfigError: it was measured not to fit."""
    from flows.display.costs import costs_lines, warnings_of
    from sana.pipeline.costs import check_trainable, plan_costs
    from sana.pipeline.plan_record import remedies_of

    try:
        costs = plan_costs(context, plans)
    except SanaError as error:  # a plan needs no model while nothing that reads it can be decided
        say(f"\nwhat it would take is not known: {error}")
        return
    if not costs.stages:
        return
    for line in ["", *costs_lines(costs, price_per_hour)]:
        say(line)
    for command, what in remedies_of(costs).items():
        pasted = to_be_pasted(command)
        say(f"{what}: {pasted}", command=pasted)
    check_trainable(context, plans)
    for line in warnings_of(costs):
        warn(to_be_pasted(line))


@click.command()
@config_options
@json_option("flows.cli.output.documents:ValidateDocument")
def validate(config: str, overrides: Sequence[str], root: str | None) -> None:
    """Check the config, the sources, the model and the root, before anything runs."""
    from flows.cli.output.documents import ValidateDocument
    from sana.data.bucketing.treatments import treatment_lines
    from sana.facts import BucketFacts
    from sana.pipeline.advisor import Advisor
    from sana.pipeline.plan import found, preflight

    settings = resolve(config, overrides, root)
    context = context_of(settings)
    notes = [*preflight(context)]
    bucketed = found(context, BucketFacts.STAGE)
    facts = None if bucketed is None else BucketFacts.of(bucketed)  # before a run `sana check` finds them
    notes += treatment_lines(facts) if facts else []
    say(f"{config} is valid: sources and model are there, {settings.root} can be written")
    for note in notes:
        say(f"note: {note}")
    Advisor(settings, warn).advise(facts)
    if settings.train.schedule_ends_with_run:
        notes.append(
            f"the {settings.train.lr_schedule.name} ends with the run, so a change of train.max_steps starts "
            "training again; set train.lr_schedule.decay_steps to be able to continue it"
        )
        say(f"note: {notes[-1]}")
    command = f"{program()} plan {same_options(config, overrides, root)}"
    say(f"next, what a run would do: {command}", command=command)
    emit(ValidateDocument(config, settings.root, tuple(notes), warned()))
