"""Check base: probe the weights that training starts from on held-out clips, before its first step."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from sana.artifact import Artifact, Draft, Facts, Recipe, digest_of
from sana.config.pipeline import Config
from sana.context import Context
from sana.counts import Counts
from sana.errors import SanaError
from sana.model.model_resolver import resolve_model, source_of
from sana.runtime.results import BaseCheckReport
from sana.runtime.specs import CheckBaseSpec
from sana.runtime.worker import files_of_worker
from sana.stages.bodies.initial_weights import find_initial_weights

NAME = "check_base"
VERSION = 1
READS = ("texts", "latents")
GIVES = ("base_check",)

log = logging.getLogger(__name__)


class BaseRefusedError(SanaError):
    """The base model failed a probe, and `train.base_check` is refuse."""


@dataclass(frozen=True)
class CheckBaseFacts(Facts):
    """The verdict of each probe: passed, failed or unsure."""

    STAGE: ClassVar[str] = "check_base"
    verdicts: Mapping[str, str]


def is_used(config: Config) -> bool:
    return config.train.base_check != "off"


def recipe(context: Context, inputs: Mapping[str, Artifact]) -> Recipe:
    """Reads the eval rows and their captions, the weights to start from, and how both are asked."""
    model = resolve_model(context.config.model, work_dir=context.work_dir, read_only=context.read_only)
    train = context.config.train
    read = {
        "latents": inputs["latents"].content["eval"],
        "captions": inputs["texts"].content["eval"],
        "transformer": model.digests["transformer"],
        "text_encoder": model.digests["text_encoder"],
        "tokenizer": model.digests["tokenizer"],
    }
    named = find_initial_weights(context)
    if named is not None:
        read["init_from"] = named.digest
    # what was accepted with a warning was not accepted with `refuse`
    asked: dict[str, object] = {
        "base_check": train.base_check,
        "mixed_precision": train.mixed_precision,
        "dtype": train.weights_dtype,
    }
    if train.method.name != "full":  # what the base is computed with may differ, and init_from may name an adapter
        asked["method"] = train.method.hashed()
    return Recipe(NAME, VERSION, asked, read)


def remaining(context: Context, inputs: Mapping[str, Artifact]) -> tuple[int, int, str]:
    """Return (done, total, unit) of the work at hand."""
    return 0, 4, "probes"


def run(context: Context, inputs: Mapping[str, Artifact], recipe: Recipe) -> Artifact:
    """Write `base_check.json` and `base_check.png`.

    Raises:
        BaseRefusedError: a probe failed and `train.base_check` is refuse; names it, and what it found.
    """
    draft = Draft(context.store, recipe, forced=bool(context.salt))
    model = resolve_model(context.config.model, work_dir=context.work_dir)
    named = find_initial_weights(context)

    def spec(out_dir: str) -> CheckBaseSpec:
        return CheckBaseSpec(
            model=source_of(model),
            latents=inputs["latents"],
            captions=inputs["texts"],
            initial=named.weights if named else None,
            out_dir=out_dir,
        )

    files = files_of_worker(context, spec)
    for name, data in files.items():
        draft.add(name, data)
    where = f"{NAME}: {BaseCheckReport.FILE}"
    report = BaseCheckReport.from_json(files[BaseCheckReport.FILE], where=where, repair_hint="run again")
    for verdict in report.failed:
        log.warning("base check: %s failed: %s", verdict.probe, verdict.said)
    if report.failed and context.config.train.base_check == "refuse":
        said = "; ".join(f"{verdict.probe}: {verdict.said}" for verdict in report.failed)
        raise BaseRefusedError(
            f"train.base_check is refuse, and the weights to start from failed on {report.num_samples} held-out clips: "
            f"{said}. Mend what it names, or set train.base_check to warn"
        )
    return draft.commit(
        content={"base_check": digest_of(report.to_value())},
        counts=Counts.all_kept(report.num_samples),
        facts=CheckBaseFacts({verdict.probe: verdict.verdict for verdict in report.verdicts}),
    )
