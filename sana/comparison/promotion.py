"""Whether a trained model takes the place of the present champion: only if it is surely better, on the same terms.

The same frozen eval list, noise levels, settings and base; the paired difference of the EMA weights, which are what is
exported, must be below 0 by SURE_STDERRS standard errors. Worse or equal by noise moves nothing.
"""

from dataclasses import dataclass

from sana.artifact import Artifact, digest_of
from sana.comparison.evaluations import Evaluation, closest, evaluations_of_training
from sana.comparison.lineage import Lineage
from sana.comparison.paired import SURE_STDERRS, LossDifference, pair
from sana.comparison.subjects import method_of
from sana.errors import SanaError
from sana.facts import EvaluateFacts, TrainFacts
from sana.record import Record
from sana.store import Store

WEIGHTS = "ema"


@dataclass(frozen=True)
class Candidate:
    """A trained model and its evaluations, the newest first: none where evaluate has not run."""

    trained: Artifact
    evaluations: tuple[Evaluation, ...]


@dataclass(frozen=True)
class Decision(Record):
    """Whether the alias moves, and why; `difference` to the champion, where the two could be paired."""

    moves: bool
    reason: str
    difference: LossDifference | None = None


@dataclass(frozen=True)
class PromoteDocument(Record):
    """What was decided. `moved`: whether the alias has moved; of a dry run it never has."""

    model: str  # of the registry
    version: str  # "": a dry run of a model that has none yet
    fingerprint: str
    champion: str  # version that has the alias now; "": none
    moved: bool
    dry_run: bool
    decision: Decision


@dataclass(frozen=True)
class Signature(Record):
    """What a trained model is: what a version in a registry is told apart by."""

    fingerprint: str
    trajectory: str
    step: int
    root: str
    uri: str  # of the exported model
    method: str
    base: str  # digest of the transformer that training started from
    data: str  # digest of the train split: latents and captions
    eval_list: str  # digest of the samples, their content and the noise levels; "": not evaluated
    evaluation: str  # key of the evaluate artifact
    eval_loss: float | None  # of the EMA weights
    eval_stderr: float | None


def candidate_of(store: Store, fingerprint: str) -> Candidate:
    """Return a train artifact and its evaluations.

    Raises:
        SanaError: it is not there any more.
    """
    key = f"{TrainFacts.STAGE}/{fingerprint}/artifact.json"
    try:
        trained = Artifact.from_json(store.read(key), where=store.uri(key))
    except FileNotFoundError as error:
        raise SanaError(f"{store.uri(key)} is gone") from error
    return Candidate(trained, tuple(evaluations_of_training(Lineage(store), trained, WEIGHTS)))


def decide(candidate: Candidate, champion: Candidate | None) -> Decision:
    """Decide whether a candidate takes the champion's place; without a champion the first does.

    Raises:
        SanaError: a table of losses is gone, damaged or not finite.
    """
    if champion is None:
        return Decision(moves=True, reason="it is the first: there is no champion")
    if champion.trained.fingerprint == candidate.trained.fingerprint:
        return Decision(moves=False, reason="it is the champion already")
    if not candidate.evaluations:
        return Decision(moves=False, reason="it was never evaluated: run its evaluate stage first")
    if not champion.evaluations:
        return Decision(moves=False, reason="the champion's evaluation is gone: evaluate it again, or force the move")
    new, old = closest(candidate.evaluations, champion.evaluations)
    if why := _other_terms(new, old):
        return Decision(moves=False, reason=f"the two cannot be paired: {why}")
    difference = own_loss_difference(new, old)
    if difference.stderr is None:
        return Decision(
            moves=False, reason="the eval list has one sample, and one tells nothing of noise", difference=difference
        )
    numbers = f"{difference.difference:+.5f} +- {difference.stderr:.5f} over {difference.num_samples} samples"
    if difference.is_better:
        said = f"its eval loss is below the champion's by at least {SURE_STDERRS:g} standard errors: {numbers}"
        return Decision(moves=True, reason=said, difference=difference)
    how = "above" if difference.difference > 0 else "not surely below"
    said = f"its eval loss is {how} the champion's ({numbers}; {SURE_STDERRS:g} standard errors below 0 are needed)"
    return Decision(moves=False, reason=said, difference=difference)


def own_loss_difference(new: Evaluation, old: Evaluation) -> LossDifference:
    """Return the paired difference of the eval loss of two evaluations of one eval list, without separate data sets.

    Raises:
        SanaError: a table is gone or damaged, or a loss is not finite.
    """
    paired = pair(new.losses, old.losses)
    if new.separate_datasets:
        samples = new.samples or old.samples
        if samples is None:
            raise SanaError(
                "the tables that say which sample is of which data set are gone (sana gc), so that the eval loss "
                "cannot be told from that of data sets measured by themselves"
            )
        paired = paired.of([name for name, one in samples.items() if one.dataset not in new.separate_datasets])
    found = paired.difference()
    if found is None:
        raise SanaError("the eval loss has no sample")
    return found


def signature_of(store: Store, candidate: Candidate) -> Signature:
    """Say what a trained model is. Raises SanaError: its facts are damaged."""
    trained = candidate.trained
    facts = TrainFacts.of(trained)
    evaluation = next(iter(candidate.evaluations), None)
    loss = None if evaluation is None else EvaluateFacts.of(evaluation.artifact).weights[WEIGHTS]
    return Signature(
        fingerprint=trained.fingerprint,
        trajectory=facts.trajectory,
        step=facts.step,
        root=store.root,
        uri=store.uri(facts.model) if facts.model else store.uri(trained.key),
        method=method_of(trained),
        base=trained.inputs.get("transformer", ""),
        data=digest_of([trained.inputs.get(name, "") for name in ("latents", "captions")]),
        eval_list="" if evaluation is None else digest_of(_terms(evaluation)),
        evaluation="" if evaluation is None else evaluation.artifact.key,
        eval_loss=None if loss is None else loss.mean,
        eval_stderr=None if loss is None else loss.stderr,
    )


def _terms(evaluation: Evaluation) -> list[object]:
    table = evaluation.losses
    return [*evaluation.eval_set, list(table.sample_ids), list(table.sigmas), sorted(evaluation.separate_datasets)]


def _other_terms(new: Evaluation, old: Evaluation) -> str:
    """Say on which terms two evaluations differ; "": on none."""
    if new.base != old.base:
        return f"the champion has another base: transformer {str(old.base)[:12]}, this one's is {str(new.base)[:12]}"
    if _terms(new) != _terms(old):
        return "the champion was evaluated on another eval list; run evaluate of both on one list"
    changed = [name for name, value in new.settings.items() if value != old.settings[name]]
    return f"they were evaluated with other settings ({', '.join(changed)})" if changed else ""
