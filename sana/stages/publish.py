"""Publish: upload the trained model or adapter, with its card, to a hub repository, a bucket or a folder.

The artifact is the list of what was uploaded, and where; what was trained is only read.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

from sana.artifact import Artifact, Draft, FileInfo, Recipe, digest_of
from sana.config.pipeline import Config
from sana.config.places import at_home
from sana.context import Context
from sana.counts import Counts
from sana.delivery.model_card import CONFIG_FILE, render
from sana.errors import ConfigError
from sana.facts import PublishFacts, TrainFacts
from sana.model.model_resolver import resolve_model, source_of
from sana.progress import Progress
from sana.runtime.launcher import WorkerError, result_path
from sana.runtime.results import PublishResult
from sana.runtime.specs import CheckpointName, Publication, PublishSpec
from sana.runtime.worker import run_worker
from sana.stages.bodies.publication import (
    card_of_checkpoint,
    config_of,
    exported_files,
    kept_checkpoints,
    make_card,
    sample_files,
    settings_yaml,
)
from sana.wording import counted, in_units

NAME = "publish"
VERSION = 1
READS = ("windows", "latents", "weights", "losses", "videos")
GIVES = ("published",)
CARD, LISTING = "README.md", "upload.json"
MAX_EXTRA_BYTES = 2**30

log = logging.getLogger(__name__)


def is_used(config: Config) -> bool:
    return config.publish is not None


def recipe(context: Context, inputs: Mapping[str, Artifact]) -> Recipe:
    """All that is uploaded: the files, by digests, the texts that are made of facts and settings, and where to."""
    publish = config_of(context)
    files = {**exported_files(inputs["weights"], with_merged=publish.merged), **sample_files(inputs)}
    if taken := sorted(set(publish.extra_files) & set(files)):
        raise ConfigError(f"publish.extra_files: {taken[0]} is a file of the model; give yours another name")
    texts = _texts(context, inputs)
    read = {
        "files": digest_of({name: info.digest for name, info in files.items()}),
        "texts": digest_of(texts),
        "weights": inputs["weights"].content["weights"],
    }
    extra = {name: _extra_digest(name, path) for name, path in publish.extra_files.items()}
    settings = {name: value for name, value in publish.hashed().items() if name != "extra_files"}
    steps = kept_checkpoints(context, inputs["weights"])
    return Recipe(NAME, VERSION, {**settings, "checkpoints": steps, "extra_files": extra}, read)


def remaining(context: Context, inputs: Mapping[str, Artifact]) -> tuple[int, int, str]:
    """Return (done, total, unit) of the work at hand."""
    return 0, sum(len(one.files) for one in _publications(context, inputs, _Stored({}, ""))), "files"


def run(context: Context, inputs: Mapping[str, Artifact], recipe: Recipe) -> Artifact:
    """Upload, and write the list of it: `upload.json`, the cards and the settings.

    Raises:
        SanaError: the place refuses; says what was uploaded before. WorkerError: the upload hangs or was killed.
    """
    publish, draft = config_of(context), Draft(context.store, recipe, forced=bool(context.salt))
    texts = _texts(context, inputs)
    for name, text in texts.items():
        draft.add(name, text.encode())
    for name, path in publish.extra_files.items():
        draft.add(f"extra/{name}", _read_extra(name, path))
    stored = _Stored(draft.files, recipe.fingerprint)
    publications = _publications(context, inputs, stored)
    num_files = sum(len(one.files) for one in publications)
    num_bytes = sum(info.num_bytes for one in publications for info in one.files.values())
    draft.add(LISTING, _listing(context, publications))
    places: Mapping[str, str] = {}
    if publish.dry_run:
        log.info("publish: a dry run: %s of %s are not uploaded", counted(num_files, "file"), in_units(num_bytes))
    else:
        model = source_of(resolve_model(context.config.model, work_dir=context.work_dir))
        result = _upload(context, PublishSpec(publish.to, publish.private, model, tuple(publications)))
        places, num_files, num_bytes = result.places, result.num_files, result.num_bytes
    return draft.commit(
        content={"published": digest_of([recipe.inputs, sorted(places)])},
        counts=Counts.all_kept(inputs["weights"].counts.num_out),
        facts=PublishFacts(publish.to, publish.dry_run, places, num_files, num_bytes, _links(publish.to, places)),
    )


@dataclass(frozen=True)
class _Stored:
    """The texts and extra files that the draft has stored, by name; none of them while this is only planned."""

    files: Mapping[str, FileInfo]
    fingerprint: str
    unknown: FileInfo = field(default_factory=lambda: FileInfo("", 0, ""))

    def __getitem__(self, name: str) -> FileInfo:
        return self.files.get(name, self.unknown)


def _texts(context: Context, inputs: Mapping[str, Artifact]) -> dict[str, str]:
    """Return the texts that are made here: the settings, and the card of each publication."""
    card = make_card(context, inputs)
    cards = {f"step-{step:08d}/{CARD}": render(card_of_checkpoint(card, step)) for step in card.checkpoints}
    return {CARD: render(card), CONFIG_FILE: settings_yaml(context.config), **cards}


def _publications(context: Context, inputs: Mapping[str, Artifact], stored: _Stored) -> list[Publication]:
    """Return what is uploaded, in order: the trained weights, then checkpoints."""
    publish, trained = config_of(context), inputs["weights"]
    facts, exported = TrainFacts.of(trained), exported_files(trained, with_merged=publish.merged)
    own = {CONFIG_FILE: stored[CONFIG_FILE], **{name: stored[f"extra/{name}"] for name in publish.extra_files}}
    final = {CARD: stored[CARD], **own, **exported, **sample_files(inputs)}
    suffix = "" if publish.repository else f"-{stored.fingerprint[:8]}"
    last = "main" if publish.repository else f"step-{facts.step:08d}{suffix}"
    # of a whole pipeline all but the transformer is that of the last step; an adapter is alone
    shared = {name: info for name, info in exported.items() if not name.startswith("transformer/")}
    shared = shared if "model_index.json" in exported else {}
    made = [
        Publication(
            f"step-{step:08d}{suffix}",
            _message(context, step, stored.fingerprint),
            {CARD: stored[f"step-{step:08d}/{CARD}"], **own, **shared},
            CheckpointName(facts.trajectory, step),
        )
        for step in kept_checkpoints(context, trained)
    ]
    # first: a branch begins at what main is
    return [Publication(last, _message(context, facts.step, stored.fingerprint), final), *made]


def _message(context: Context, step: int, fingerprint: str) -> str:
    text = config_of(context).commit_message or f"Step {step} of training"
    return f"{text} (publish/{fingerprint})"


def _upload(context: Context, spec: PublishSpec) -> PublishResult:
    """Run the worker; where it hangs or is killed, say how far it was."""
    last = Progress(0, 0, "MiB")

    def report(progress: Progress) -> None:
        nonlocal last
        last = progress if progress.counts else last
        context.report(progress)

    stall_s = config_of(context).resources.stall_timeout_s
    try:
        job_path = run_worker(context, spec, report=report, stall_timeout_s=stall_s, lock="publish")
    except WorkerError as error:
        if "uploaded" in str(error):  # the worker itself says so
            raise
        files = last.counts.get("files", 0)
        raise type(error)(f"{error}\nfiles uploaded before: {files}; run again: those are not sent again") from error
    return PublishResult.load(result_path(job_path), repair_hint="run again")


def _listing(context: Context, publications: list[Publication]) -> bytes:
    """Return the list of what is uploaded, for people and programs."""
    publish = config_of(context)
    value = {
        "to": publish.to,
        "private": publish.private if publish.repository else None,
        "dry_run": publish.dry_run,
        "publications": [
            {
                "name": one.name,
                "message": one.message,
                "num_bytes": sum(info.num_bytes for info in one.files.values()),
                "files": {name: {"num_bytes": info.num_bytes} for name, info in sorted(one.files.items())},
                "exported_from": one.checkpoint and f"{one.checkpoint.trajectory}@{one.checkpoint.step}",
            }
            for one in publications
        ],
    }
    return json.dumps(value, indent=1).encode() + b"\n"


def _links(to: str, places: Mapping[str, str]) -> dict[str, str]:
    """Return the page of what was published, or its folder."""
    if not places:
        return {}
    if to.startswith("hf://"):
        from sana.delivery.hub_upload import HubPlace

        return {"published": HubPlace(to.removeprefix("hf://"), private=True).page}
    return {"published": next(iter(places.values()))}


def _read_extra(name: str, path: str) -> bytes:
    try:
        local = at_home(path)
        if local.stat().st_size > MAX_EXTRA_BYTES:
            raise ConfigError(f"publish.extra_files: {name}: {path} is larger than {in_units(MAX_EXTRA_BYTES)}")
        return local.read_bytes()
    except OSError as error:
        raise ConfigError(f"publish.extra_files: {name}: {path} cannot be read: {error.strerror}") from error


def _extra_digest(name: str, path: str) -> str:
    return hashlib.blake2b(_read_extra(name, path), digest_size=16).hexdigest()
