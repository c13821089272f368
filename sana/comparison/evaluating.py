"""Evaluate what was never evaluated on an eval set, once: the losses are an artifact of their own, found again later.

They are named by the weights (a trajectory and step, or the digest of an export), the eval set and how the model is
asked, so that nothing is computed twice, on any machine.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import TypeAdapter

from sana.arrow import value_counts
from sana.artifact import Artifact, Draft, Recipe, digest_of, find
from sana.comparison.evaluations import Evaluation
from sana.comparison.lineage import INDEX, Lineage
from sana.comparison.subjects import EXPORTED, Subject, checkpoint_digest_parts
from sana.config.training.method import MethodConfig
from sana.context import Context
from sana.counts import Counts
from sana.data.columns import columns
from sana.data.sources.digest_cache import DigestCache
from sana.errors import ConfigError, SanaError
from sana.facts import BASELINE, EvaluateFacts, EvaluateWeightsFacts
from sana.model.model_resolver import ModelRef, component_digest, resolve_model, source_of
from sana.runtime.command_specs import EvaluateWeightsSpec
from sana.runtime.results import EvaluatedWeights
from sana.runtime.specs import CheckpointName
from sana.runtime.worker import files_of_worker

NAME = EvaluateWeightsFacts.STAGE
ADAPTER_FILE = "pytorch_lora_weights.safetensors"  # diffusers' name, as training exports it
VERSION = 1


@dataclass(frozen=True)
class EvalSet:
    """What losses are measured on: artifacts of encode_latents and encode_captions, whose eval split is read."""

    latents: Artifact
    captions: Artifact


@dataclass(frozen=True)
class Missing:
    """A subject that is to be evaluated: how, and the work of it."""

    subject: Subject
    context: Context  # with the method that its weights are of
    recipe: Recipe
    model: ModelRef
    num_samples: int
    seconds: float | None  # about; None: nothing was evaluated here that tells

    def cost(self) -> str:
        """Say what it takes."""
        levels = self.context.config.evaluate.num_sigmas
        time = "" if self.seconds is None else f", about {self.seconds:.0f} s"
        return f"{self.num_samples} samples at {levels} noise levels by one set of weights{time}"


def missing(context: Context, subject: Subject, eval_set: EvalSet) -> Missing:
    """Return what would be computed to evaluate a subject as this config says.

    Raises:
        SanaError: its weights are not in the config's root, or cannot be asked with its model.
    """
    if subject.weights != EXPORTED and subject.lineage.store.root != context.store.root:
        raise SanaError(
            f"{subject.name} is under {subject.lineage.store.root}, and the config's root is {context.store.root}: a "
            "checkpoint is evaluated in its own root; name a config with that root, or export the model"
        )
    model = resolve_model(context.config.model, work_dir=context.work_dir, read_only=context.read_only)
    context = _with_method(context, subject)
    train = context.config.train.hashed()
    asked = {name: train[name] for name in ("mixed_precision", "text_padding", "weights_dtype") if name in train}
    conditions = {label: one.hashed() for label, one in context.config.evaluated_conditions.items()}
    recipe = Recipe(
        NAME,
        VERSION,
        context.config.evaluate.hashed()
        | asked
        | {"method": context.config.train.method.hashed(), "weights": subject.weights}
        | ({"conditions_of_training": conditions} if conditions else {}),
        {
            "latents": eval_set.latents.content["eval"],
            "captions": eval_set.captions.content["eval"],
            "weights": _digest(subject),
            "initial_weights": model.digests["transformer"],
        },
    )
    num_samples = _num_samples(context, eval_set)
    return Missing(subject, context, recipe, model, num_samples, _seconds(subject.lineage, context, num_samples))


def evaluate(work: Missing, eval_set: EvalSet, lineage: Lineage) -> Evaluation:
    """Measure the losses, unless they are there by now, and commit them.

    Raises:
        SanaError: the worker's own message.
    """
    store, subject = work.context.store, work.subject
    if (found := find(store, work.recipe)) is not None:
        return Evaluation(lineage, found, subject.weights)
    draft = Draft(store, work.recipe)
    checkpoint = None
    if subject.trajectory and subject.step:
        checkpoint = CheckpointName(subject.trajectory, subject.step)

    def spec(out_dir: str) -> EvaluateWeightsSpec:
        return EvaluateWeightsSpec(
            model=source_of(work.model),
            latents=eval_set.latents,
            captions=eval_set.captions,
            checkpoint=checkpoint,
            folder=_export_folder(subject),
            weights=_weights(subject),
            out_dir=out_dir,
        )

    files = files_of_worker(work.context, spec)
    for name, data in files.items():
        draft.add(name, data)
    result = EvaluatedWeights.from_json(files[EvaluatedWeights.FILE], where=f"{NAME}: {EvaluatedWeights.FILE}")
    made = draft.commit(
        content={"losses": result.losses_digest},
        counts=Counts.all_kept(result.num_samples),
        facts=EvaluateWeightsFacts(
            _weights(subject), subject.trajectory, subject.step, result.num_samples, result.compute
        ),
    )
    return Evaluation(lineage, made, subject.weights)


def export_digest(folder: Path, *, work_dir: Path, read_only: bool) -> str:
    """Return the digest of the weights of an exported model: of its transformer, or of its adapter.

    Raises:
        ConfigError: the folder holds neither.
        SanaError: a file cannot be read.
    """
    if (folder / "transformer" / "config.json").is_file():
        return component_digest(folder, "transformer", work_dir=work_dir, read_only=read_only)
    if not (folder / ADAPTER_FILE).is_file():
        raise ConfigError(
            f"{folder} holds no transformer/config.json and no {ADAPTER_FILE}, so it is no exported model; name a "
            "folder of `sana export-model`"
        )
    digests = DigestCache(work_dir / "cache" / "blake2b.sqlite", algorithm="blake2b", read_only=read_only)
    try:
        return digest_of(["adapter", digests.digest(folder / ADAPTER_FILE)])
    except OSError as error:
        raise SanaError(f"{folder / ADAPTER_FILE} cannot be read: {error}") from error


def _with_method(context: Context, subject: Subject) -> Context:
    """Return a context whose method is that of the weights: of a training as it was, of an export by its files."""
    config, method = context.config, None
    if subject.trained is not None:
        found = subject.trained.config.get("method", {"name": "full"})
        method = TypeAdapter(MethodConfig).validate_python(found)
    elif subject.folder and (Path(subject.folder) / "transformer" / "config.json").is_file():
        method = TypeAdapter(MethodConfig).validate_python({"name": "full"})
    elif subject.folder and config.train.method.name == "full":
        raise ConfigError(
            f"{subject.folder} holds an adapter, and train.method of the config is full; name the config that it was "
            "trained with by --config"
        )
    if method is None or method.name == config.train.method.name == "full":
        return context
    train = config.train.model_copy(update={"method": method})
    return replace(context, config=config.model_copy(update={"train": train}))


def _digest(subject: Subject) -> str:
    if subject.digest:
        return subject.digest
    if subject.weights == BASELINE:
        return digest_of(["initial"])  # the weights of the model itself, whose digest is an input as well
    return digest_of(checkpoint_digest_parts(subject.trajectory, subject.step or 0, subject.weights))


def _export_folder(subject: Subject) -> str | None:
    return str(Path(subject.folder).absolute()) if subject.folder else None


def _weights(subject: Subject) -> Literal["initial", "live", "ema", "exported"]:
    return cast("Literal['initial', 'live', 'ema', 'exported']", subject.weights)


def _num_samples(context: Context, eval_set: EvalSet) -> int:
    """Return how many samples are evaluated: of each set that is measured by itself up to max_samples."""
    table = columns(context.store, eval_set.latents, INDEX, ("split", "dataset"), dictionary=("split", "dataset"))
    config, sets = context.config.evaluate, dict[str, int]()
    of_eval = table.filter(pc.equal(table.column("split").cast(pa.string()), "eval"))
    for name, number in value_counts(of_eval.column("dataset")).items():
        key = name if name in config.separate_datasets else ""
        sets[key] = sets.get(key, 0) + number
    return sum(min(number, config.max_samples) for number in sets.values())


def _seconds(lineage: Lineage, context: Context, num_samples: int) -> float | None:
    """Return about how long it takes, from what evaluate took here for its three sets of weights."""
    before = next(iter(lineage.all(EvaluateFacts.STAGE)), None)
    if before is None or not before.counts.num_out:
        return None
    levels = context.config.evaluate.num_sigmas / float(cast("int", before.config.get("num_sigmas", 1)))
    return before.seconds / 3 * num_samples / before.counts.num_out * levels
