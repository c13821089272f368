"""What is known of the stages of a flow run while it goes on, and the page that each of them gets in Prefect."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sana.artifact import Artifact
from sana.counts import Counts
from sana.errors import SanaError
from sana.facts import BASELINE, WEIGHTS, EvaluateFacts, PublishFacts, SampleFacts, TrainFacts
from sana.progress import Progress
from sana.report.flow import REJECTS_FILE, read_rejects
from sana.store import Store
from sana.wording import in_units, one_line, rate_text
from tasks.prefect_pages.markdown import joined, link, table, text, trouble

MAX_NAMED = 20  # rejected files on a page


@dataclass
class SeenStage:
    """One stage of the run, as far as it is; times in seconds of a monotonic clock."""

    name: str
    task_run_id: UUID | None
    state: str = "running"
    artifact: Artifact | None = None
    progress: Progress | None = None  # the last report of work that was done here
    started_at: float | None = None  # its work
    error: str = ""

    @property
    def rate(self) -> str:
        """How fast it worked, such as `3.9 steps/s`; "" where nothing was counted."""
        if self.progress is None or self.started_at is None:
            return ""
        seconds = self.artifact.seconds if self.artifact else time.monotonic() - self.started_at
        per_s = (self.progress.done - self.progress.before) / max(seconds, 1e-3)
        if per_s <= 0:
            return ""
        return rate_text(per_s, self.progress.unit)

    @property
    def resumed(self) -> str:
        """What of the work was there already, such as `, 60 of 120 steps were there`; "" where that is nothing."""
        if self.progress is None or not self.progress.before:
            return ""
        return f", {self.progress.before} of {self.progress.total} {self.progress.unit} were there"

    @property
    def counts(self) -> str:
        """How far it came, of a stage that is not committed."""
        if self.progress is None:
            return ""
        return f"{self.progress.done} of {self.progress.total} {self.progress.unit}"


def stage_page(seen: SeenStage, title: str, store: Store, links: Sequence[str]) -> str:
    """Render a stage: what came in, went out and was rejected and why, how fast, what it made and where that is."""
    artifact = seen.artifact
    heading = f"## {text(seen.name)} of {text(title)}: {text(f'{seen.state}{seen.resumed}')}"
    if artifact is None:
        rows = [[label, text(value)] for label, value in (("done", seen.counts), ("rate", seen.rate)) if value]
        return joined(
            [
                heading,
                trouble(seen.error),
                table(["what", "so far"], rows, numbers=["so far"]) if rows else "",
                " | ".join(links),
            ]
        )
    counts = artifact.counts
    numbers: list[tuple[str, object]] = [
        ("in", counts.num_in),
        ("out", counts.num_out),
        ("rejected", counts.num_rejected),
        *([] if counts.num_samples is None else [("samples", counts.num_samples)]),
        *((name.replace("_", " "), number) for name, number in counts.extra.items() if number),
        ("took", f"{artifact.seconds:.1f} s"),
        *([("rate", seen.rate)] if seen.rate else []),
        ("size", in_units(sum(file.num_bytes for file in artifact.files.values()))),
    ]
    return joined(
        [
            heading,
            trouble(seen.error),
            table(["what", "how much"], [[text(label), text(value)] for label, value in numbers], numbers=["how much"]),
            *_made(artifact, store),
            reasons(counts),
            rejected_files(store, {artifact.stage: artifact}),
            f"Artifact: {text(store.uri(artifact.key))}",
            " | ".join(links),
        ]
    )


def summary(seen: Sequence[SeenStage]) -> str:
    """Say of a run, where it has come so far, how many clips were rejected and what became of the eval loss."""
    made = [one.artifact for one in seen if one.artifact is not None]
    rejected = sum(artifact.counts.num_rejected for artifact in made)
    said = f"; {rejected} rejected" if rejected else ""
    for artifact in made:
        if evaluated := EvaluateFacts.find(artifact):
            before, after = evaluated.weights[BASELINE].mean, evaluated.weights["ema"].mean
            said += f"; eval loss {before:.4f} -> {after:.4f}"
    return said


def reasons(counts: Counts) -> str:
    """Render how many were rejected for which reason, and of which data set."""
    if not counts.num_rejected:
        return ""
    rows = [[text(reason), str(number)] for reason, number in counts.top_reasons()]
    by_dataset = [[text(name), str(of.num_in), str(of.num_rejected)] for name, of in counts.datasets.items()]
    parts = ["### Rejected, by reason", table(["reason", "clips"], rows, numbers=["clips"])]
    if by_dataset:
        parts.append(table(["data set", "in", "rejected"], by_dataset, numbers=["in", "rejected"]))
    return joined(parts).rstrip()


def rejected_files(store: Store, artifacts: dict[str, Artifact]) -> str:
    """Render the first rejected files by name, with stage, reason and what was found."""
    rejecting = {name: made for name, made in artifacts.items() if REJECTS_FILE in made.files}
    if not any(made.counts.num_rejected for made in rejecting.values()):
        return ""
    try:
        found = read_rejects(store, rejecting, max_rows=MAX_NAMED)
    except SanaError as error:
        return f"### Rejected files\n\n{text(one_line(error))}"
    rows = [
        [*(text(row[key]) for key in ("path", "stage", "reason")), text(row["detail"], most=80)] for row in found.rows
    ]
    more = found.total - len(rows)
    where = ", ".join(text(store.uri(key)) for key in found.keys)
    rest = f"{more} more are in {where}" if more > 0 else f"All are in {where}"
    return joined(["### Rejected files", table(["file", "stage", "reason", "found"], rows), rest]).rstrip()


def losses(evaluated: EvaluateFacts) -> str:
    """Render the eval loss of each set of weights, with its paired difference to those before training."""
    rows = []
    for name in WEIGHTS:
        loss, paired = evaluated.weights[name], evaluated.paired.get(name)
        label = "before training" if name == BASELINE else f"{name} weights, step {evaluated.step}"
        change = ["", ""]
        if paired is not None:
            change = [f"{-paired.relative_drop:+.1%}", _with_error(paired.difference, paired.stderr, "+")]
        rows.append([text(label), text(_with_error(loss.mean, loss.stderr)), *map(text, change)])
    return table(["weights", "eval loss", "change", "paired difference"], rows, numbers=["eval loss", "change"])


def verdict(evaluated: EvaluateFacts, num_clips: int) -> str:
    """Say in a sentence whether training helped: by the EMA weights, on held-out clips."""
    paired, before, after = evaluated.paired["ema"], evaluated.weights[BASELINE], evaluated.weights["ema"]
    went = "fell" if paired.difference < 0 else "rose"
    surely = paired.stderr is not None and abs(paired.difference) > 2 * paired.stderr
    sure = "by more than two standard errors" if surely else "by less than two standard errors: it may be noise"
    if paired.stderr is None:
        sure = "one sample has no standard error"
    return (
        f"**The eval loss {went} from {before.mean:.4f} to {after.mean:.4f}** by the EMA weights of step "
        f"{evaluated.step}, on {num_clips} held-out clips ({sure})."
    )


def _made(artifact: Artifact, store: Store) -> list[str]:
    """Say what is worth knowing of an artifact of some stages: losses, the model, the videos, what was published."""
    if evaluated := EvaluateFacts.find(artifact):
        return [verdict(evaluated, artifact.counts.num_in), losses(evaluated)]
    if trained := TrainFacts.find(artifact):
        off = ", ".join(f"{layout} off by {value:.1g}" for layout, value in trained.passport.items())
        checked = f"Loaded by stock diffusers, velocity as trained: {text(off)}" if off else ""
        return [f"Model of step {trained.step}: {text(store.uri(trained.model))}", checked]
    if sampled := SampleFacts.find(artifact):
        return [f"Videos of {text(', '.join(sampled.videos))}: {text(store.uri(artifact.key))}"]
    if published := PublishFacts.find(artifact):
        pages = " | ".join(link(name, url) for name, url in published.links.items())
        verb = "Would be published" if published.dry_run else "Published"
        return [f"{verb} to {text(published.to)}: {published.num_files} files, {in_units(published.num_bytes)}", pages]
    return []


def _with_error(value: float, stderr: float | None, sign: str = "") -> str:
    return f"{value:{sign}.4f}" + ("" if stderr is None else f" +- {stderr:.4f}")
