"""The document of `sana run --json`, from the rows of its table."""

from collections.abc import Mapping, Sequence

from flows.cli.output.documents import EvalLoss, RunDocument, StageOutcome
from sana.artifact import Artifact
from sana.facts import EvaluateFacts, PublishFacts, TrainFacts
from sana.store import Store

Rows = Sequence[tuple[str, str, Artifact | str]]  # stage, state, and what it made, or had done


def run_document(
    config: str, store: Store, rows: Rows, *, state: str = "", error: str = "", how: Sequence[str] = ()
) -> RunDocument:
    """Return what became of each stage, and what there is of the trained model.

    `state` is of a run that was ended by `error`; `how` says for each stage that did not end how to go on.
    """
    made = {name: artifact for name, _, artifact in rows if isinstance(artifact, Artifact)}
    stages = tuple(_stage(*row) for row in rows)
    ended = "cached" if all(stage.state == "cached" for stage in stages) else "completed"
    return RunDocument(
        config=config,
        root=store.root,
        state=state or ended,
        error=error,
        stages=stages,
        model=store.uri(TrainFacts.of(made["train"]).model) if "train" in made else None,
        eval=_eval(made["evaluate"]) if "evaluate" in made else {},
        samples=store.uri(made["sample"].files["contact_sheet.png"].key) if "sample" in made else None,
        published=_published(made["publish"]) if "publish" in made else None,
        how_to_continue=tuple(how),
    )


def _stage(name: str, state: str, made: Artifact | str) -> StageOutcome:
    if isinstance(made, str):
        return StageOutcome(name, state.lower(), None, None, None, None, None, None, None, made)
    counts = made.counts
    return StageOutcome(
        name,
        state.lower(),
        made.fingerprint,
        made.key,
        num_in=counts.num_in,
        num_out=counts.num_out,
        num_rejected=counts.num_rejected,
        num_samples=counts.num_samples,
        seconds=made.seconds,
    )


def _eval(artifact: Artifact) -> Mapping[str, EvalLoss]:
    facts = EvaluateFacts.of(artifact)
    losses = {}
    for name, loss in facts.weights.items():
        paired = facts.paired.get(name)
        drop, difference = (paired.relative_drop, paired.difference) if paired else (None, None)
        losses[name] = EvalLoss(loss.mean, loss.stderr, drop, difference, paired.stderr if paired else None)
    return losses


def _published(artifact: Artifact) -> str:
    facts = PublishFacts.of(artifact)
    return facts.links.get("published", facts.to)
