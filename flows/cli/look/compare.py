"""`sana compare`: trained models, checkpoints and exported models beside each other."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from flows.cli.options import context_of, load_options, open_root, program, resolve, same_options
from flows.cli.output.completion import ConfigPath, complete_training
from flows.cli.output.json_output import emit, json_option
from flows.display.wrapping import say
from sana.errors import ConfigError, SanaError

if TYPE_CHECKING:
    from sana.artifact import Artifact
    from sana.comparison.lineage import Lineage
    from sana.comparison.record import Comparison
    from sana.comparison.subjects import Subject
    from sana.context import Context


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="A B [C ...]", shell_complete=complete_training)
@load_options
@click.option("--config", type=ConfigPath(), help="Whose root, eval set and model are meant.")
@click.option(
    "--weights", type=click.Choice(["ema", "live"]), default="ema", show_default=True, help="Of each training."
)
@click.option(
    "--evaluate", is_flag=True, help="Evaluate what was never evaluated, on the eval set of --config, or of A's config."
)
@click.option("-o", "--out", type=click.Path(dir_okay=False), help="Also write a page with charts and videos.")
@json_option("sana.comparison.record:Comparison")
def compare(
    names: Sequence[str],
    overrides: Sequence[str],
    root: str | None,
    config: str | None,
    weights: Literal["ema", "live"],
    evaluate: bool,
    out: str | None,
) -> None:
    """Compare trained models with the first: eval loss by clip, settings, data, and videos side by side.

    Each of A, B, ... is a config, a training (its fingerprint or trajectory, or the beginning of one, or a run id),
    FINGERPRINT@STEP for a checkpoint (0: before training), or the folder of an exported model. A difference below 0 is
    better than A.
    """
    from flows.display.comparison import comparison_text
    from sana.comparison.compare import compare as compare_all
    from sana.runs.titles import titled

    named = config or next((name for name in names if is_config(name)), None)
    context = None if named is None else context_of(resolve(named, overrides, root), read_only=not evaluate)
    asked = Asked(context, root, tuple(overrides), weights)
    subjects = [asked.subject(name) for name in names]
    subjects = _evaluated(subjects, context, named, asked, evaluate=evaluate)
    found = compare_all(titled(subjects))
    say(comparison_text(found))
    if out is not None:
        _write_page(found, subjects, out)
        say(f"page: {out}")
    emit(found)


class Asked:
    """What names mean, with the options of the command; each root is opened once."""

    def __init__(
        self, context: "Context | None", root: str | None, overrides: tuple[str, ...], weights: Literal["ema", "live"]
    ) -> None:
        self._context, self._root, self._overrides, self._weights = context, root, overrides, weights
        self._lineages: dict[str, Lineage] = {}

    def subject(self, name: str) -> "Subject":
        """Return what a name means. Raises SanaError: it means nothing, or what was not trained yet."""
        from sana.comparison.evaluating import export_digest
        from sana.comparison.subjects import exported_subject, trained_subject
        from sana.runs.compared import find_subject

        if is_config(name):
            context = context_of(resolve(name, self._overrides, self._root), read_only=True)
            return trained_subject(name, self.lineage(context), _trained(context, name, self), self._weights)
        if not Path(name).is_dir():
            lineage = self.lineage(self._context)
            return find_subject(name, lineage, self._weights)
        if self._context is None:
            raise ConfigError(
                f"{name} is the folder of a model; --config CONFIG says on which eval set it is measured, and how"
            )
        digest = export_digest(Path(name), work_dir=self._context.work_dir, read_only=self._context.read_only)
        return exported_subject(name, self.lineage(self._context), name, digest)

    def options(self, name: str) -> str:
        """Return the arguments that name the same config and places."""
        return same_options(name, self._overrides, self._root)

    def lineage(self, context: "Context | None") -> "Lineage":
        """Return the artifacts of a config's root, or of `--root`."""
        from sana.comparison.lineage import Lineage

        store = context.store if context is not None else open_root(self._root)
        return self._lineages.setdefault(store.root, Lineage(store))


def is_config(name: str) -> bool:
    return name.endswith((".yaml", ".yml")) or Path(name).is_file()


def _trained(context: "Context", name: str, asked: Asked) -> "Artifact":
    """Return what train committed for a config. Raises SanaError: nothing yet; names the command."""
    from sana.pipeline.plan import committed

    states = {state.name: state for state in committed(context)}
    if (trained := states["train"].artifact) is not None:
        return trained
    raise SanaError(
        f"{context.store.root} has no finished training of {name}; make it: {program()} run {asked.options(name)}. A "
        "checkpoint of an unfinished one is named by its trajectory: TRAJECTORY@STEP"
    )


def _evaluated(
    subjects: "list[Subject]", context: "Context | None", config: str | None, asked: Asked, *, evaluate: bool
) -> "list[Subject]":
    """Return the subjects, each with an evaluation; those without one are evaluated if asked.

    Raises:
        SanaError: one has no evaluation and may not be evaluated; says how, and what it costs.
    """
    from dataclasses import replace

    from flows.display.progress_display import RunDisplay
    from sana.comparison import evaluating
    from sana.pipeline.plan import inputs_of

    without = [subject for subject in subjects if not subject.evaluations]
    if not without:
        return subjects
    if context is None or config is None:
        raise SanaError(
            f"{without[0].name} was never evaluated; --config CONFIG --evaluate does it, on the eval set of that config"
        )
    inputs = inputs_of(context, "evaluate", command=f"{program()} run {asked.options(config)}")
    eval_set = evaluating.EvalSet(inputs["latents"], inputs["texts"])
    done = {}
    for subject in without:
        work = evaluating.missing(context, subject, eval_set)
        if not evaluate:
            raise SanaError(f"{subject.name} was never evaluated; --evaluate does it: {work.cost()}")
        say(f"evaluating {subject.name}: {work.cost()}", err=True)
        with RunDisplay() as display:
            reporting = replace(work.context, report=display.reporter("evaluate"))
            found = evaluating.evaluate(replace(work, context=reporting), eval_set, asked.lineage(context))
        done[subject.name] = replace(subject, evaluations=(found,))
    return [done.get(subject.name, subject) for subject in subjects]


def _write_page(found: "Comparison", subjects: "list[Subject]", out: str) -> None:
    import time

    from sana.report.comparison.page import comparison_page

    stores = {subject.lineage.store.root: subject.lineage.store for subject in subjects}
    page = comparison_page(found, stores, now=time.time())
    try:
        Path(out).write_text(page, encoding="utf-8")
    except OSError as error:
        raise SanaError(f"cannot write {out}: {error.strerror}; choose another place with -o") from error
