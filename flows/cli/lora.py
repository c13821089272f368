"""`sana lora extract` and `sana lora merge`: an adapter out of a fine-tuned model, and into its base."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flows.cli.options import FiniteRange
from flows.cli.output.json_output import emit, json_option
from flows.display.wrapping import say
from sana.config.places import at_home
from sana.errors import ConfigError

if TYPE_CHECKING:
    from sana.runtime.specs import Spec

_SHOWN_LAYERS = 3
ADAPTER_LAYOUTS = ("peft", "comfyui")


@click.group()
def lora() -> None:
    """Extract a LoRA of a fine-tuned model, or merge one into its base: `sana lora extract`, `sana lora merge`."""


def _out_options(command: Any) -> Any:
    command = click.option("--work-dir", default=".sana", show_default=True, help="Folder of logs and job files.")(
        command
    )
    return click.option(
        "--to", "out", required=True, type=click.Path(path_type=Path), help="The folder to write: a new or empty one."
    )(command)


@lora.command()
@click.argument("model")
@click.argument("base")
@click.option("--revision", help="Of BASE, where it is on the hub.")
@click.option("--rank", type=click.IntRange(1, 1024), default=16, show_default=True, help="Rank of A and B.")
@click.option(
    "--targets",
    multiple=True,
    default=("self_attention", "cross_attention", "feed_forward"),
    show_default=True,
    help="Which layers, as in train.method.targets; may be repeated.",
)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@_out_options
@json_option("flows.cli.output.documents:LoraDocument")
def extract(
    model: str,
    base: str,
    revision: str | None,
    rank: int,
    targets: tuple[str, ...],
    device: Any,
    out: Path,
    work_dir: str,
) -> None:
    """Write the LoRA that is nearest to what fine-tuning changed: of the folder MODEL against BASE.

    BASE is a folder in diffusers layout, or a hub id. Convolutions are extracted too. It says how much of the change
    the adapter has, and how far the base with it is from MODEL.
    """
    from flows.cli.output.documents import LoraDocument
    from flows.display.show import load_lines
    from sana.runtime.command_specs import LoraExtractSpec
    from sana.runtime.results import LoraExtractResult

    spec = LoraExtractSpec(
        model=model, base=base, revision=revision, rank=rank, targets=targets, device=device, out=_new(out)
    )
    found = LoraExtractResult.load(_run(spec, "extract", work_dir))
    for line in extract_lines(found, out):
        say(line)
    emit(LoraDocument(str(out), found.to_value(), tuple(load_lines(str(out), ADAPTER_LAYOUTS))))


@lora.command()
@click.argument("base")
@click.argument("adapter")
@click.option("--revision", help="Of BASE, where it is on the hub.")
@click.option("--scale", type=FiniteRange(), default=1.0, show_default=True, help="Of what the adapter adds.")
@click.option(
    "--dtype", type=click.Choice(["fp32", "bf16"]), default="fp32", show_default=True, help="Of the merged weights."
)
@_out_options
@json_option("flows.cli.output.documents:LoraDocument")
def merge(base: str, adapter: str, revision: str | None, scale: float, dtype: Any, out: Path, work_dir: str) -> None:
    """Write a whole model: BASE with the LoRA in the file or folder ADAPTER merged in.

    ADAPTER is in PEFT's, ComfyUI's or kohya's layout. BASE is a folder in diffusers layout, or a hub id.
    """
    from flows.cli.output.documents import LoraDocument
    from flows.display.show import load_lines
    from sana.runtime.command_specs import LoraMergeSpec
    from sana.runtime.results import LoraMergeResult
    from sana.wording import in_units

    spec = LoraMergeSpec(base=base, revision=revision, adapter=adapter, scale=scale, dtype=dtype, out=_new(out))
    found = LoraMergeResult.load(_run(spec, "merge", work_dir))
    say(
        f"{out}: {found.layers} layers merged, {in_units(found.num_bytes)} of weights; the velocity of a fixed batch "
        f"moved by {found.effect:.1%}"
    )
    load = load_lines(str(out))
    for line in load:
        say(line)
    emit(LoraDocument(str(out), found.to_value(), tuple(load)))


def extract_lines(found: Any, out: Path) -> list[str]:
    """Return what is told of an extracted adapter."""
    from flows.display.show import load_lines
    from sana.wording import in_units

    least = sorted(found.energy, key=lambda layer: found.energy[layer])[:_SHOWN_LAYERS]
    return [
        f"{out}: rank {found.rank} beside {len(found.energy)} layers, {in_units(found.num_bytes)}",
        f"  it has {found.captured:.1%} of the squared change of these layers; least of "
        + ", ".join(f"{layer} ({found.energy[layer]:.1%})" for layer in least),
        f"  {found.left_out:.1%} of the squared change is in {found.num_left_out} other tensors, which it has not",
        f"  velocity of a fixed batch: the model is {found.model_velocity:.2%} off the base, and the base with the "
        f"adapter {found.adapter_velocity:.2%} off the model",
        *load_lines(str(out), ADAPTER_LAYOUTS),
    ]


def _new(out: Path) -> str:
    """Return the folder to write, absolute. Raises ConfigError: it holds something, before any model is loaded."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--to: {out} is there already, and nothing is overwritten; name a new folder")
    return str(out.absolute())


def _run(spec: "Spec", name: str, work_dir: str) -> Path:
    from flows.display.progress_display import RunDisplay
    from sana.pipeline.plan import check_work_dir
    from sana.runtime.launcher import result_path
    from sana.runtime.tool import run_tool

    folder = at_home(work_dir).absolute()
    check_work_dir(folder)
    with RunDisplay() as display:
        path = run_tool(spec, work_dir=folder, report=display.reporter(f"lora {name}"))
    return result_path(path)
