"""Train: from the newest checkpoint of the trajectory to `max_steps`, in a process (or several) of its own.

The trajectory is all that determines the bytes of step k; the artifact is (trajectory, max_steps). So raising
`max_steps` resumes from the newest checkpoint, and checkpoints are shared.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sana.artifact import Artifact, Draft, Recipe, digest_of, find
from sana.config.pipeline import Config
from sana.context import Context
from sana.counts import Counts
from sana.errors import ConfigError, SanaError
from sana.facts import EncodeLatentsFacts, TrainFacts
from sana.model.model_resolver import resolve_model, source_of
from sana.progress import Progress
from sana.runtime.launcher import result_path
from sana.runtime.results import Passport, TrainResult
from sana.runtime.specs import PassportSpec, TrainSpec
from sana.runtime.worker import files_of_worker, run_worker
from sana.stages.bodies.initial_weights import check_is_there, find_initial_weights
from sana.stages.bodies.trainable_here import why_not_trainable
from sana.training.checkpoints.checkpoint import newest_checkpoint

NAME = "train"
VERSION = 1
READS = ("texts", "latents")
READS_IF_GIVEN = ("masks", "features", "base_check")  # the last only comes before: no byte depends on it
GIVES = ("weights",)
_EVALUATED = {"latents": "latents", "captions": "texts"}  # the eval split, by the table that has it


def recipe(context: Context, inputs: Mapping[str, Artifact]) -> Recipe:
    """Reads the train rows, their captions and the null caption, and the transformer to start from."""
    model = resolve_model(context.config.model, work_dir=context.work_dir, read_only=context.read_only)
    read = {
        "latents": inputs["latents"].content["train"],
        "captions": inputs["texts"].content["train"],
        "transformer": model.digests["transformer"],
    }
    if "masks" in inputs:
        read["masks"] = inputs["masks"].content["train"]
    if "features" in inputs:
        read["features"] = inputs["features"].content["train"]
    if context.config.train.timestep_sampling.name == "checkpoint":
        read["scheduler"] = model.digests["scheduler"]
    if context.config.train.early_stopping is not None:  # which step is exported, and which is the last, depends on it
        read |= {f"eval_{name}": inputs[table].content["eval"] for name, table in _EVALUATED.items()}
    settings = {**context.config.train.trajectory_settings(), "max_steps": context.config.train.max_steps}
    if draws_per_epoch := _draws_per_epoch(context.config, inputs["latents"]):
        settings["draws_per_epoch"] = draws_per_epoch
    if conditions := _conditions(context.config, inputs["latents"]):
        settings["conditions_of"] = conditions
    if context.config.train.early_stopping is not None:
        settings["evaluate"] = context.config.evaluate.hashed()
    named = find_initial_weights(context)
    if named is not None:
        read["init_from"] = named.digest
    made = Recipe(NAME, VERSION, settings, read)
    if named is not None and find(context.store, made) is None and not _has_begun(context, made):
        check_is_there(context, named)  # a run that has weights of its own needs it no more
    return made


def _has_begun(context: Context, made: Recipe) -> bool:
    at_most = context.config.train.max_steps
    return newest_checkpoint(context.store, trajectory_of(made), at_most=at_most) is not None


def _draws_per_epoch(config: Config, latents: Artifact) -> dict[str, float]:
    """Return how often each data set is drawn in an epoch, of those with train samples that are not drawn once.

    The rest is left out: once is what a run without sampling weights does, and it keeps its trajectory.
    """
    used = EncodeLatentsFacts.of(latents).train_samples
    return {
        found.id: found.draws_per_epoch
        for found in config.download.enabled
        if found.id in used and found.draws_per_epoch != 1.0
    }


def _conditions(config: Config, latents: Artifact) -> dict[str, list[dict[str, Any]]]:
    """Return the conditions of each data set with train samples that has others than `train.conditions`."""
    used = EncodeLatentsFacts.of(latents).train_samples
    return {
        found.id: [condition.hashed() for condition in config.conditions_of(found)]
        for found in config.download.enabled
        if found.id in used and config.conditions_of(found) != config.train.conditions
    }


def trajectory_of(recipe: Recipe) -> str:
    """Name what determines the bytes of every step: the recipe without the number of steps."""
    settings = {name: value for name, value in recipe.config.items() if name != "max_steps"}
    return digest_of([recipe.version, settings, recipe.inputs])[:16]


def remaining(context: Context, inputs: Mapping[str, Artifact]) -> tuple[int, int, str]:
    """Return (done, total, unit) of the work at hand."""
    max_steps = context.config.train.max_steps
    checkpoint = newest_checkpoint(context.store, trajectory_of(recipe(context, inputs)), at_most=max_steps)
    return checkpoint.step if checkpoint else 0, max_steps, "steps"


def run(context: Context, inputs: Mapping[str, Artifact], recipe: Recipe) -> Artifact:
    """Train, and commit the exported model, the last checkpoint and the metrics.

    Raises:
        SanaError: the loss is not finite, another trainer is at work, or the worker died.
    """
    draft = Draft(context.store, recipe, forced=bool(context.salt))
    spec = spec_of(context, inputs, recipe)
    resources = context.config.train.resources
    job_path = run_worker(
        context,
        spec,
        num_processes=resources.num_processes,
        lock=f"train-{spec.trajectory}",
        stall_timeout_s=resources.stall_timeout_s,
    )
    return commit(context, draft, job_path)


def spec_of(context: Context, inputs: Mapping[str, Artifact], recipe: Recipe) -> TrainSpec:
    """Return what each rank is to do.

    Raises:
        ConfigError: names of parameters match none, or it was measured not to fit on this device.
    """
    if why := why_not_trainable(context):  # here too: a deployed flow and a rank of torchrun have planned nothing
        raise ConfigError(why)
    model = resolve_model(context.config.model, work_dir=context.work_dir)
    trajectory = context.salted(trajectory_of(recipe))
    named = find_initial_weights(context)
    return TrainSpec(
        model=source_of(model),
        latents=inputs["latents"],
        captions=inputs["texts"],
        trajectory=trajectory,
        fingerprint=recipe.fingerprint,
        keep_steps=tuple(_steps_in_use(context, trajectory)),
        draws_per_epoch=_draws_per_epoch(context.config, inputs["latents"]),
        initial=named.weights if named else None,
        masks=inputs.get("masks"),
        features=inputs.get("features"),
    )


def commit(context: Context, draft: Draft, job_path: Path) -> Artifact:
    """Check the exports that rank 0 left, and commit what it left beside its job.

    Raises:
        SanaError: an export does not compute what was trained; nothing is committed.
    """
    result = TrainResult.load(result_path(job_path), repair_hint="run again")
    for name, info in result.files.items():
        if not draft.store.exists(info.key):  # `sana gc` may have found a shared file unused just before
            raise SanaError(f"{draft.store.uri(info.key)} is gone since it was stored; run again")
        draft.refer(name, info.key, num_bytes=info.num_bytes, digest=info.digest)
    off: dict[str, float] = {}
    if result.reference:
        passport = check_exports(context, result)
        draft.add(Passport.FILE, passport.to_json())
        off |= {check.layout: check.difference for check in passport.checks}
    return draft.commit(
        content={"weights": result.weights_digest},
        counts=Counts.all_kept(result.num_samples, steps=result.step),
        facts=TrainFacts(
            trajectory=result.trajectory,
            step=result.step,
            checkpoint=result.checkpoint,
            metrics=result.metrics,
            model=result.model,
            passport=off,
            not_exported=result.not_exported,
        ),
    )


def check_exports(context: Context, result: TrainResult) -> Passport:
    """Load each export in a process of its own, and compare what it computes with what was trained.

    Raises:
        SanaError: an export cannot be loaded, or computes something else; names it and the number.
    """
    steps = context.config.train.max_steps

    def report(progress: Progress) -> None:
        phase = progress.phase or "checking the exports"
        context.report(Progress(result.step, steps, "steps", phase=phase, before=result.step))

    model = resolve_model(context.config.model, work_dir=context.work_dir)

    def spec(out_dir: str) -> PassportSpec:
        return PassportSpec(
            model=source_of(model),
            folder=result.model,
            files=result.files,
            reference=result.reference,
            num_ranks=result.num_ranks,
            not_exported=result.not_exported,
            out_dir=out_dir,
        )

    files = files_of_worker(replace(context, report=report), spec)
    Path(result.reference).unlink(missing_ok=True)
    return Passport.from_json(files[Passport.FILE], where=f"{NAME}: {Passport.FILE}", repair_hint="run again")


def _steps_in_use(context: Context, trajectory: str) -> list[int]:
    """Steps of this trajectory whose checkpoint a committed artifact refers to: they are never pruned."""
    steps = []
    for fingerprint in context.store.list_dirs(NAME):
        key = f"{NAME}/{fingerprint}/artifact.json"
        if fingerprint != "history" and context.store.exists(key):
            artifact = Artifact.from_json(context.store.read(key), where=context.store.uri(key))
            made = TrainFacts.of(artifact)
            if made.trajectory == trajectory:
                steps.append(made.step)
    return sorted(steps)
