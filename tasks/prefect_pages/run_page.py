"""The page of a flow run in Prefect: how it went, in words and numbers, with one picture and where everything is."""

import base64
from collections.abc import Sequence
from io import BytesIO

from PIL import Image

from sana.artifact import Artifact
from sana.facts import EvaluateFacts, SampleFacts, TrainFacts
from sana.store import Store
from tasks.prefect_pages.markdown import joined, table, text, trouble
from tasks.prefect_pages.stages import SeenStage, losses, rejected_files, verdict

PICTURE_PIXELS = 960  # its longer side at most
PICTURE_BYTES = 300_000
_NUMBERS = ("in", "out", "rejected", "samples", "seconds")
_QUALITIES = (85, 60, 30)


def run_page(title: str, state: str, seen: Sequence[SeenStage], store: Store, links: Sequence[str], error: str) -> str:
    """Render a run that is running, or how it ended; `error`: what ended it, if any."""
    artifacts = {one.name: one.artifact for one in seen if one.artifact is not None}
    evaluated, trained, sampled = (artifacts.get(name) for name in ("evaluate", "train", "sample"))
    facts = EvaluateFacts.of(evaluated) if evaluated else None
    return joined(
        [
            f"# {text(title)}: {text(state)}",
            trouble(error),
            verdict(facts, evaluated.counts.num_in) if evaluated and facts else "",
            " | ".join(links),
            _picture(sampled, store) if sampled else "",
            "## Stages",
            _stages(seen),
            f"## Eval loss\n\n{losses(facts)}" if facts else "",
            rejected_files(store, artifacts),
            f"## Where it is\n\n{_places(store, trained, sampled)}",
        ]
    )


def _stages(seen: Sequence[SeenStage]) -> str:
    rows = []
    for one in seen:
        numbers = [""] * 5
        if one.artifact is not None:
            counts = one.artifact.counts
            samples = "" if counts.num_samples is None else str(counts.num_samples)
            numbers = [str(number) for number in (counts.num_in, counts.num_out, counts.num_rejected)]
            numbers += [samples, f"{one.artifact.seconds:.1f}"]
        made = one.artifact.fingerprint if one.artifact else one.counts
        rows.append([text(one.name), text(f"{one.state}{one.resumed}"), *numbers, text(one.rate), text(made)])
    return table(["stage", "state", *_NUMBERS, "rate", "fingerprint"], rows, numbers=_NUMBERS)


def _places(store: Store, trained: Artifact | None, sampled: Artifact | None) -> str:
    rows = [["artifacts", text(store.root)]]
    if trained is not None:
        rows.append(["model", text(store.uri(TrainFacts.of(trained).model))])
    if sampled is not None:
        rows.append(["videos", text(store.uri(sampled.key))])
    return table(["what", "where"], rows)


def _picture(sampled: Artifact, store: Store) -> str:
    return picture_of(store, sampled.files[SampleFacts.of(sampled).contact_sheet].key, "the samples")


def picture_of(store: Store, key: str, label: str) -> str:
    """Return a picture of the store by value, for Prefect's server has no access to it; "" if it will not be small."""
    with Image.open(BytesIO(store.read(key))) as picture:
        small = picture.convert("RGB")
    small.thumbnail((PICTURE_PIXELS, PICTURE_PIXELS))
    for quality in _QUALITIES:
        out = BytesIO()
        small.save(out, "JPEG", quality=quality)
        if out.tell() <= PICTURE_BYTES:
            return f"![{text(label)}](data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()})"
    return ""
