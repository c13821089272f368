"""`sana generate` and `sana export-model`: use what was trained; `sana make-tiny-model`: something to try with."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flows.cli.options import config_options, context_of, program, resolve, same_options
from flows.cli.output.json_output import emit, json_option
from flows.display.wrapping import say
from sana.artifact import Artifact
from sana.context import Context
from sana.errors import ConfigError, SanaError

if TYPE_CHECKING:
    from sana.config.sample import SampleConfig
    from sana.maintenance.export_model import Layout
    from sana.runtime.specs import CheckpointName

PREVIEW_EVERY = 5  # sampler steps, where the config has none
NAME_CHARS = 40  # of a prompt, in the name of its video


@click.command()
@config_options
@click.argument("prompt")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The mp4 to write; unset: named after PROMPT and seed.",
)
@click.option("--seed", type=click.IntRange(min=0), help="Seed of the starting noise, instead of sample.seed.")
@click.option("--bucket", metavar="FxHxW", help="Frames x height x width, instead of sample.bucket.")
@click.option("--image", help="A local picture that the video begins with: image to video.")
@click.option(
    "--preview", is_flag=True, help="Also pictures of it on its way, beside it: every sample.preview_every steps, or 5."
)
@json_option("flows.cli.output.documents:GenerateDocument")
def generate(
    config: str,
    overrides: Sequence[str],
    root: str | None,
    prompt: str,
    out: Path | None,
    seed: int | None,
    bucket: str | None,
    image: str | None,
    preview: bool,
) -> None:
    """Make a video of PROMPT from the trained weights, or from the newest checkpoint of a run that is not finished.

    Steps, guidance, negative prompt and weights are those of `sample`: -s sample.num_inference_steps=20.
    """
    from flows.display.progress_display import RunDisplay
    from sana.data.picture_file import picture_digest
    from sana.data.sources.outputs import check_outside_sources
    from sana.model.model_resolver import resolve_model, source_of
    from sana.pipeline.plan import check_work_dir
    from sana.runtime.command_specs import GenerateSpec
    from sana.runtime.worker import run_worker

    if not prompt.strip():
        raise ConfigError("the prompt is empty; write what is to be seen")
    changed = [f"sample.{key}={value}" for key, value in (("seed", seed), ("bucket", bucket)) if value is not None]
    settings = resolve(config, [*overrides, *changed], root)
    if preview and not settings.sample.preview_every:
        settings = resolve(config, [*overrides, *changed, f"sample.preview_every={PREVIEW_EVERY}"], root)
    if image is not None:
        picture_digest(image, where="--image")  # it is there, and a picture
        if settings.sample.shape.num_frames == 1:
            raise ConfigError(f"--image: bucket {settings.sample.bucket} has one frame, the picture; use a longer one")
    context = context_of(settings)
    check_work_dir(context.work_dir)
    path = (out or Path(f"{_file_name(prompt)}-seed{settings.sample.seed}.mp4")).absolute()
    if not path.parent.is_dir():
        raise ConfigError(f"--out: the folder {path.parent} is not there; make it, or name another")
    check_outside_sources(settings, path, "--out")
    previews = path.with_name(f"{path.stem}-previews")
    checkpoint, note = _checkpoint(context, same_options(config, overrides, root))
    model = source_of(resolve_model(settings.model, work_dir=context.work_dir))
    with RunDisplay() as display:
        run_worker(
            replace(context, report=display.reporter("generate")),
            GenerateSpec(
                model,
                checkpoint,
                prompt,
                str(path),
                image,
                str(previews) if preview else None,
                _latents(context) if preview and settings.sample.preview_weights is None else None,
            ),
        )
    _tell_generated(settings.sample, path, previews if preview else None, checkpoint.step, note)


def _tell_generated(sample: "SampleConfig", path: Path, previews: Path | None, step: int, note: str) -> None:
    from flows.cli.output.documents import GenerateDocument

    say(f"{path}  ({sample.bucket}, {sample.num_inference_steps} steps, seed {sample.seed}, "
               f"{sample.weights} weights of step {step}{note})")  # fmt: skip
    if previews is not None:
        say(f"previews: {previews}")
    emit(
        GenerateDocument(
            *(str(path), sample.bucket, sample.num_inference_steps, sample.seed, sample.weights, step),
            previews=None if previews is None else str(previews),
        )
    )


@click.command()
@config_options
@click.option("--step", type=click.IntRange(min=0), help="Of this checkpoint; unset: the newest. 0: before training.")
@json_option("flows.cli.output.documents:SampleDocument")
def sample(config: str, overrides: Sequence[str], root: str | None, step: int | None) -> None:
    """Make the videos of `train.validation` from a checkpoint, also while another machine trains; MLflow shows them.

    They are those that training would make after that step: -s train.validation.buckets=[81x832x480].
    """
    from flows.cli.output.documents import SampleDocument
    from flows.display.progress_display import RunDisplay
    from sana.pipeline.validation import validate_checkpoint
    from tasks.tracking.pictures import show_validation_of

    context = context_of(resolve(config, overrides, root))
    command = f"{program()} run {same_options(config, overrides, root)}"
    with RunDisplay() as display:
        done = validate_checkpoint(replace(context, report=display.reporter("sample")), step, command=command)
    files = done.record.files
    videos = [context.store.uri(files[video.file].key) for video in done.record.videos]
    sheets = [context.store.uri(files[name].key) for name in done.record.sheets.values()]
    for video in videos:
        click.echo(video)
    for sheet in sheets:
        say(f"contact sheet: {sheet}")
    show_validation_of(context, done)
    emit(SampleDocument(done.record.step, tuple(videos), tuple(sheets)))


@click.command("export-model")
@config_options
@click.option("--to", "target", required=True, help="An empty or new folder, or s3://bucket/prefix.")
@click.option(
    "--layout",
    type=click.Choice(["all", "peft", "comfyui", "merged"]),
    default="all",
    show_default=True,
    help="Of an adapter: all its layouts, or one of them at the root of --to.",
)
@json_option("flows.cli.output.documents:ModelDocument")
def export_model(config: str, overrides: Sequence[str], root: str | None, target: str, layout: "Layout") -> None:
    """Write the trained model (EMA weights) in diffusers layout. An export that was stopped resumes when run again."""
    from flows.cli.output.documents import ModelDocument
    from flows.display.progress_display import RunDisplay
    from flows.display.show import exports_of, load_lines
    from sana.maintenance.export_model import export_model as copy
    from sana.store import open_store
    from sana.wording import in_units

    context = context_of(resolve(config, overrides, root), read_only=True)
    trained = _trained(context)
    if trained is None:
        raise SanaError(
            f"{context.store.root} has no finished training of this config, and only that has a model to export; "
            f"make it: {program()} run {same_options(config, overrides, root)} --until train"
        )
    try:
        place = open_store(target)
    except ValueError as error:
        raise ConfigError(f"--to: {error}") from error
    staging = None if context.store.is_local else context.work_dir
    with RunDisplay() as display:
        done = copy(
            context.store,
            trained,
            place,
            layout=layout,
            staging=staging,
            report=display.reporter("export-model", with_unit=True),
        )
    say(f"{place.root}: {done.num_copied} files copied ({in_units(done.num_bytes)}), {done.num_present} were there")
    load = load_lines(place.root, exports_of(trained) if layout == "all" else (layout,))
    for line in load:
        say(line)
    emit(ModelDocument(place.root, done.num_copied, done.num_bytes, done.num_present, tuple(load)))


@click.command("make-tiny-model")
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option("--seed", default=0, show_default=True, help="Seed of the random weights.")
@click.option("--encoder", is_flag=True, help="A tiny DINOv2 instead, for encode_features.encoder.")
@json_option("flows.cli.output.documents:TinyModelDocument")
def make_tiny_model(out: Path, seed: int, *, encoder: bool) -> None:
    """Write a complete tiny Sana Video checkpoint (random weights, real architecture) to the folder OUT."""
    from flows.cli.output.documents import TinyModelDocument
    from sana.runtime.worker_process import hide_torchao

    hide_torchao()
    from sana.model.tiny_model import build_tiny_encoder, build_tiny_model

    try:
        (build_tiny_encoder if encoder else build_tiny_model)(out, seed=seed)
    except OSError as error:
        raise SanaError(str(error)) from error
    say(f"wrote a tiny random-weight {'DINOv2' if encoder else 'Sana Video'} to {out}")
    folder = shlex.quote(str(out))
    command = f"{program()} init path/to/clips --model {folder}"
    if encoder:
        command = f"{program()} run CONFIG -s encode_features.encoder={folder}"
    say(f"next: {command}", command=command)
    emit(TinyModelDocument(str(out), "encoder" if encoder else "model"))


@click.command(hidden=True, context_settings={"ignore_unknown_options": True})
@click.argument("rest", nargs=-1, type=click.UNPROCESSED)
def tiny(rest: Sequence[str]) -> None:
    """Say what `sana tiny` is called now."""
    raise SanaError(f"`sana tiny` is called `sana make-tiny-model` now: {program()} make-tiny-model {shlex.join(rest)}")


COMMANDS = (generate, sample, export_model)


def _trained(context: Context) -> Artifact | None:
    """Return what train committed for this config, even where a source cannot be listed any more."""
    from sana.pipeline.plan import committed

    return next((state.artifact for state in committed(context) if state.name == "train"), None)


def _latents(context: Context) -> Artifact | None:
    """Return what encode_latents committed for this config: a preview's colours are fitted on it."""
    from sana.pipeline.plan import committed

    return next((state.artifact for state in committed(context) if state.name == "encode_latents"), None)


def _checkpoint(context: Context, options: str) -> "tuple[CheckpointName, str]":
    """Return the checkpoint of the finished training, else the newest of an unfinished one with a note of that.

    Raises:
        SanaError: there is neither.
    """
    from sana.facts import TrainFacts
    from sana.pipeline.plan import plan
    from sana.runtime.specs import CheckpointName
    from sana.stages.train import trajectory_of
    from sana.training.checkpoints.checkpoint import newest_checkpoint

    if (trained := _trained(context)) is not None:
        facts = TrainFacts.of(trained)
        return CheckpointName(facts.trajectory, facts.step), ""
    planned = plan(context, last="train")[-1]
    max_steps = context.config.train.max_steps
    if planned.recipe is not None:
        trajectory = trajectory_of(planned.recipe)
        if (found := newest_checkpoint(context.store, trajectory, at_most=max_steps)) is not None:
            return CheckpointName(trajectory, found.step), f" of {max_steps}"
    raise SanaError(
        f"{context.store.root} has no trained weights of this config yet, not even a checkpoint; "
        f"make them: {program()} run {options} --until train"
    )


def _file_name(prompt: str) -> str:
    """Return the beginning of a prompt as a file name."""
    words = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:NAME_CHARS].strip("-")
    return words or "video"
