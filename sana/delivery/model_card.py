"""The model card: README.md of what is published, with the hub's metadata at its head. Equal facts, equal text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import yaml

CONFIG_FILE, PLOT_FILE, SAMPLES = "training_config.yaml", "eval_loss.png", "samples"
_COMMERCIAL_USE_IS_OF_ALL = (
    "Whoever uses this is bound by the licences of the base model and of the data as well as by the one above."
)

_MERGED = (
    "The folder `merged` is the whole model with the adapter merged in: download it, and give its path to "
    "`SanaVideoPipeline.from_pretrained`."
)


@dataclass(frozen=True)
class DatasetLine:
    """A data set as the card names it: `source` only where it is public."""

    id: str
    source: str  # hf:// address; "" for a folder or a bucket
    license: str  # as given; "" where it is not


@dataclass(frozen=True)
class LossLine:
    """The eval loss of one set of weights, and how much lower than before training it is."""

    weights: str
    mean: float
    stderr: float | None
    difference: float | None = None  # paired, to the weights before training
    difference_stderr: float | None = None


@dataclass(frozen=True)
class Shape:
    """How a video is asked for."""

    width: int
    height: int
    frames: int
    steps: int
    guidance_scale: float
    fps: float
    seed: int
    negative_prompt: str


@dataclass(frozen=True)
class Card:
    """All that a card says."""

    title: str
    description: str
    load_from: str  # the repository, or FOLDER
    load_revision: str  # its branch; "": main
    on_hub: bool
    is_adapter: bool
    has_merged: bool  # an adapter's: the whole model with it merged in, below merged/
    base_model: str  # hub id; "" where nobody knows it
    base_revision: str
    base_license: str
    license: str | None
    license_name: str | None
    license_link: str | None
    tags: Sequence[str]
    datasets: Sequence[DatasetLine]
    training: Mapping[str, str]  # facts, name: value
    losses: Sequence[LossLine]
    num_eval_samples: int
    prompts: Mapping[str, str]  # of the samples, by nickname
    videos: Mapping[str, str]  # files below SAMPLES, by nickname
    shape: Shape
    checkpoints: Sequence[int] = field(default_factory=tuple)  # steps that are branches or folders


def render(card: Card) -> str:
    """Return the whole of README.md."""
    parts = [
        f"---\n{yaml.safe_dump(_metadata(card), sort_keys=False, allow_unicode=True, width=1000)}---",
        f"# {card.title}",
        card.description.strip(),
        _what_it_is(card),
        "## How to load it",
        f"```python\n{snippet(card)}\n```",
        _MERGED if card.has_merged else "",
        *_samples(card),
        *_losses(card),
        "## Training",
        _table(("", ""), [(name, value) for name, value in card.training.items()]),
        f"All settings: [{CONFIG_FILE}]({CONFIG_FILE}).",
        *_checkpoints(card),
        "## Data",
        _table(("data set", "source", "licence"), [_dataset(one) for one in card.datasets]),
        "## Licences",
        _licences(card),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def snippet(card: Card) -> str:
    """Return Python that makes the first video of the card with stock diffusers."""
    shape = card.shape
    prompt = next(iter(card.prompts.values()), "a prompt, written the way the captions are written")
    here = f"{card.load_from!r}" + (f", revision={card.load_revision!r}" if card.load_revision else "")
    if card.is_adapter:
        base = card.base_model or "BASE_MODEL"
        load = f"pipe = SanaVideoPipeline.from_pretrained({base!r}, torch_dtype=dtype).to(device)\n"
        load += f"pipe.load_lora_weights({here})"
    else:
        load = f"pipe = SanaVideoPipeline.from_pretrained({here}, torch_dtype=dtype).to(device)"
    return f"""import torch
from diffusers import SanaVideoPipeline
from diffusers.utils import export_to_video  # needs imageio and imageio-ffmpeg

device = "cuda" if torch.cuda.is_available() else "cpu"
dtype = torch.bfloat16 if device == "cuda" else torch.float32
{load}
pipe.vae.to(torch.float32)
video = pipe(
    prompt={prompt!r},
    negative_prompt={shape.negative_prompt!r},
    height={shape.height},
    width={shape.width},
    frames={shape.frames},
    num_inference_steps={shape.steps},
    guidance_scale={shape.guidance_scale:g},
    generator=torch.Generator("cpu").manual_seed({shape.seed}),
    use_resolution_binning=False,
).frames[0]
export_to_video(video, "video.mp4", fps={shape.fps:g})"""


def _metadata(card: Card) -> dict[str, object]:
    tags = ["sana-video", "text-to-video", *(["lora"] if card.is_adapter else []), *card.tags]
    known: dict[str, object] = {
        "license": card.license,
        "license_name": card.license_name,
        "license_link": card.license_link,
        "base_model": card.base_model,
        "base_model_relation": ("adapter" if card.is_adapter else "finetune") if card.base_model else None,
        "pipeline_tag": "text-to-video",
        "library_name": "diffusers",
        "tags": list(dict.fromkeys(tags)),
        "datasets": [one.source.removeprefix("hf://datasets/") for one in card.datasets if one.source],
        "widget": [
            {"text": card.prompts[name], "output": {"url": f"{SAMPLES}/{file}"}}
            for name, file in card.videos.items()
            if name in card.prompts
        ],
    }
    return {name: value for name, value in known.items() if value}


def _what_it_is(card: Card) -> str:
    kind = "A LoRA adapter for" if card.is_adapter else "A fine-tune of"
    base = f"[{card.base_model}](https://huggingface.co/{card.base_model})" if card.base_model else "a Sana Video model"
    at = f" (commit `{card.base_revision}`)" if card.base_revision else ""
    return f"{kind} {base}{at}. The weights are the exponential moving average of training."


def _samples(card: Card) -> list[str]:
    if not card.videos:
        return []
    rows = [(f"[{name}]({SAMPLES}/{file})", card.prompts.get(name, "")) for name, file in card.videos.items()]
    shape = card.shape
    made = (
        f"{shape.frames} frames of {shape.width}x{shape.height}, {shape.steps} steps, guidance {shape.guidance_scale:g}"
    )
    sheet = f"![videos of the validation prompts]({SAMPLES}/contact_sheet.png)"
    return ["## Samples", sheet, f"{made}, seed {shape.seed}.", _table(("video", "prompt"), rows)]


def _losses(card: Card) -> list[str]:
    if not card.losses:
        return []
    rows = [
        (
            one.weights,
            _with_error(one.mean, one.stderr),
            "" if one.difference is None else _with_error(one.difference, one.difference_stderr),
        )
        for one in card.losses
    ]
    about = (
        f"On {card.num_eval_samples} held-out samples, at fixed noise levels and with fixed noise; mean and standard "
        "error over samples. The difference to the weights before training is paired by sample; below 0 is better."
    )
    table = _table(("weights", "eval loss", "difference"), rows)
    return ["## Eval loss", about, table, f"![eval loss over noise level]({PLOT_FILE})"]


def _checkpoints(card: Card) -> list[str]:
    if not card.checkpoints:
        return []
    names = ", ".join(f"`step-{step:08d}`" for step in card.checkpoints)
    where = "branches" if card.on_hub else "folders beside this one, whose names begin with"
    return [f"Checkpoints on the way, EMA weights in the same layout: {where} {names}."]


def _licences(card: Card) -> str:
    mine = card.license_name or card.license or "not stated"
    mine = f"[{mine}]({card.license_link})" if card.license_link else mine
    rows = [("this", mine), ("base model", card.base_license or "as its own page says")]
    return f"{_table(('', 'licence'), rows)}\n\n{_COMMERCIAL_USE_IS_OF_ALL}"


def _dataset(one: DatasetLine) -> tuple[str, str, str]:
    where = one.source.removeprefix("hf://")
    link = f"[{where}](https://huggingface.co/{where})" if one.source else "not public"
    return one.id, link, one.license or "not stated"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _with_error(value: float, stderr: float | None) -> str:
    return f"{value:.4f}" + ("" if stderr is None else f" ± {stderr:.4f}")
