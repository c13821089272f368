"""What the terminal shows of a plan and of the result of a run; its progress is in `progress_display`."""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from flows.display.stage_view import NOT_REACHED
from flows.display.tables import fits, render
from sana.artifact import Artifact
from sana.facts import BASELINE, WEIGHTS, EvaluateFacts, PublishFacts, TrainFacts
from sana.pipeline.plan import StagePlan
from sana.store import Store
from sana.wording import counted, in_units

_STYLES = {
    "cached": "green",
    "completed": "cyan",
    "partial": "yellow",
    "stale": "yellow",
    "stopped": "yellow",
    "failed": "bold red",
    "not reached": "dim",
}
_LEFT = ("stage", "state", "artifact")


def plan_table(plans: Sequence[StagePlan]) -> str:
    """Render a plan; at the first stage at which the run would stop, and below it, as what it would be."""
    table = Table(box=None, pad_edge=False)
    for name in ("stage", "state", "fingerprint", "why, and what would be done"):
        table.add_column(name, no_wrap=name != "why, and what would be done", overflow="fold")
    stopped = ""
    for plan in plans:
        state, detail = (NOT_REACHED, f"the run stops at {stopped}") if stopped else (plan.state, plan.detail)
        if plan.stops and not stopped:
            stopped, detail = plan.name, "the run would stop here: see below"
        # as Text, not a string: a detail quotes what users wrote, and may look like markup
        table.add_row(plan.name, Text(state, style=_STYLES.get(state, "")), plan.fingerprint or "-", Text(detail))
    return render(table)


def result_table(rows: Sequence[tuple[str, str, Artifact | str]], store: Store) -> str:
    """Render what a run did: stage, state, clips in / out / rejected, samples of them, seconds, artifact.

    A row without an artifact says what was done instead. Where the terminal is narrow, that is on a line of its own.
    """
    table = _result_table(rows, with_artifact=True)
    text = render(table)
    if not fits(table):
        title, *lines = render(_result_table(rows, with_artifact=False)).splitlines()
        made = [f"  {_made(what)}" if what else None for _, _, what in rows]
        text = "\n".join(
            [title, *(line for pair in zip(lines, made, strict=True) for line in pair if line is not None)]
        )
    return f"{text}\nartifacts are under {store.root}"


def _result_table(rows: Sequence[tuple[str, str, Artifact | str]], *, with_artifact: bool) -> Table:
    table = Table(box=None, pad_edge=False)
    names = ["stage", "state", "in", "out", "rejected", "samples", "seconds", *(["artifact"] * with_artifact)]
    for name in names:
        table.add_column(name, justify="left" if name in _LEFT else "right", no_wrap=True)
    for name, state, made in rows:
        numbers = [""] * 5
        if isinstance(made, Artifact):
            counts = made.counts
            numbers = [str(num) for num in (counts.num_in, counts.num_out, counts.num_rejected)]
            numbers += ["" if counts.num_samples is None else str(counts.num_samples), f"{made.seconds:.1f}"]
        styled = Text(state.lower(), style=_STYLES.get(state.lower(), ""))
        table.add_row(name, styled, *numbers, *([_made(made)] * with_artifact))
    return table


def _made(made: Artifact | str) -> str:
    return made.key if isinstance(made, Artifact) else made


def stage_lines(name: str, artifact: Artifact, store: Store, export: str) -> list[str]:
    """Return what is told of a stage's artifact below the table: the eval loss, where the model and the videos are.

    `export` is the command that copies the model to a folder, for where diffusers cannot read it.
    """
    if name == "evaluate":
        return eval_lines(artifact).splitlines()
    if name == "sample":
        return [f"sampled videos: {store.uri(artifact.files['contact_sheet.png'].key)}"]
    if name == "publish":
        published = PublishFacts.of(artifact)
        what = f"{counted(published.num_files, 'file')}, {in_units(published.num_bytes)}"
        listing = store.uri(artifact.files["upload.json"].key)
        if published.dry_run:
            return [f"would be published to {published.to}: {what}, see {listing}"]
        return [f"published: {published.links.get('published', published.to)} ({what})"]
    if name == "train":
        facts, exports = TrainFacts.of(artifact), exports_of(artifact)
        folder = store.uri(facts.model)
        load = [f"  {line}" for line in load_lines(folder, exports)]
        return [
            f"trained {'model' if 'diffusers' in exports else 'adapter'}: {folder}",
            *(load if store.is_local else [f"  in a folder of your own: {export}"]),
            *(f"  {line}" for line in passport_lines(facts)),
        ]
    return []


def exports_of(trained: Artifact) -> tuple[str, ...]:
    """Return the layouts that a training's exports have: diffusers, or of an adapter peft, comfyui and merged."""
    first = {
        "diffusers": "model/model_index.json",
        "peft": "model/pytorch_lora_weights.safetensors",
        "comfyui": "model/comfyui/sana_video_lora.safetensors",
        "merged": "model/merged/model_index.json",
    }
    return tuple(layout for layout, name in first.items() if name in trained.files)


def load_lines(folder: str, exports: Sequence[str] = ("diffusers",)) -> list[str]:
    """Return the lines of Python that load an exported model or adapter, which has these layouts in its folder."""
    if "://" in folder:
        folder = "FOLDER"  # diffusers reads no bucket
        return ["copy it to a FOLDER of your own, then in Python:", *load_lines(folder, exports)]
    if tuple(exports) in (("diffusers",), ("merged",)):
        return ["from diffusers import SanaVideoPipeline", f"pipe = SanaVideoPipeline.from_pretrained({folder!r})"]
    lines = []
    if "peft" in exports:
        lines += [
            "from diffusers import SanaVideoPipeline",
            "pipe = SanaVideoPipeline.from_pretrained(MODEL)  # model.path of the config",
            f"pipe.load_lora_weights({folder!r})",
        ]
    if "merged" in exports:
        merged = f"{folder}/merged"
        lines.append(f"pipe = SanaVideoPipeline.from_pretrained({merged!r})  # or with the adapter merged in")
    if "comfyui" in exports:
        lines.append(f"# for ComfyUI: {folder if tuple(exports) == ('comfyui',) else folder + '/comfyui'}")
    return lines


def passport_lines(facts: TrainFacts) -> list[str]:
    """Return what the checks of the exports found, and what was not exported."""
    off = [f"{layout} {'bit-equal' if off == 0 else f'off by {off:.1g}'}" for layout, off in facts.passport.items()]
    checked = [f"loaded by stock diffusers, velocity as trained: {', '.join(off)}"] if off else []
    return checked + [f"not exported, {layout}: {why}" for layout, why in facts.not_exported.items()]


def eval_lines(artifact: Artifact) -> str:
    """Render the eval loss before and after training, with standard errors."""
    facts = EvaluateFacts.of(artifact)
    before = facts.weights[BASELINE]
    lines = [
        f"eval loss on {artifact.counts.num_in} held-out clips, before training: "
        f"{_with_error(before.mean, before.stderr)}"
    ]
    for name in WEIGHTS:
        if name != BASELINE:
            loss, paired = facts.weights[name], facts.paired[name]
            lines.append(
                f"  after {facts.step} steps, {name:4} weights: {_with_error(loss.mean, loss.stderr)}  "
                f"({paired.relative_drop:.1%} lower; paired difference {_with_error(paired.difference, paired.stderr)})"
            )
    for label, found in facts.conditions.items():
        start, loss = found.weights[BASELINE], found.weights["ema"]
        lines.append(
            f"  with {label} in each of {found.num_samples}: {_with_error(start.mean, start.stderr)} before, "
            f"{_with_error(loss.mean, loss.stderr)} by ema weights ({found.paired['ema'].relative_drop:.1%} lower)"
        )
    return "\n".join(lines)


def _with_error(value: float, stderr: float | None) -> str:
    """Return `value +- standard error`; one sample has no standard error."""
    return f"{value:.4f}" + ("" if stderr is None else f" +- {stderr:.4f}")
