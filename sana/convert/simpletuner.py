"""SimpleTuner's two files become one config of ours: every key is mapped, or left with its reason."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sana.convert.datasets import convert_datasets
from sana.convert.draft import Draft, Keys, account
from sana.convert.training import convert_training
from sana.convert.unsupported_keys import CONFIG_FAMILIES, CONFIG_LEFT, FAULTS
from sana.errors import ConfigError

MODEL = "Efficient-Large-Model/SANA-Video_2B_480p_diffusers"
# every key of config.json that is read: what a misspelt one may have meant
MAPPED = (
    "output_dir", "model_family", "model_type", "pretrained_model_name_or_path", "revision", "resolution",
    "pretrained_vae_model_name_or_path", "resolution_type", "vae_dtype", "vae_batch_size", "vae_enable_tiling",
    "text_encoder_batch_size", "sana_complex_human_instruction", "seed", "max_train_steps", "train_batch_size",
    "gradient_accumulation_steps", "num_processes", "learning_rate", "lr_scheduler", "lr_warmup_steps", "lr_end",
    "optimizer", "optimizer_config", "optimizer_beta1", "optimizer_beta2", "max_grad_norm",
    "caption_dropout_probability", "use_ema", "ema_decay", "ema_update_interval", "ema_validation", "mixed_precision",
    "gradient_checkpointing", "checkpoint_step_interval", "checkpointing_steps", "checkpoints_total_limit",
    "validation_step_interval", "validation_steps", "eval_steps_interval", "eval_timesteps", "num_eval_images",
    "validation_resolution", "validation_num_video_frames", "validation_num_inference_steps", "validation_guidance",
    "framerate", "validation_seed", "validation_negative_prompt", "validation_prompt", "user_prompt_library",
    "tracker_project_name",
)  # fmt: skip


def convert(config: Path, backends: Path, *, num_processes: int = 1) -> Draft:
    """Read both files; `num_processes` is how many GPUs the run had, which neither file says.

    Raises:
        ConfigError: a file is missing, not JSON, or asks for what cannot be done here at all.
    """
    raw, entries = read_json(config), read_json(backends)
    if not isinstance(raw, dict):
        raise ConfigError(f"{config} is not an object in braces, but {type(raw).__name__}; is it the config.json?")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ConfigError(f"{backends} is not a list of data sets; is it the multidatabackend.json?")
    keys = Keys(raw, str(config))
    draft = Draft()
    _places(draft, keys)
    _model(draft, keys)
    convert_datasets(
        draft,
        entries,
        where=str(backends),
        resolution=keys.take("resolution"),
        resolution_type=keys.take("resolution_type"),
    )
    for key in ("resolution", "resolution_type"):
        if keys.has(key) and not any(key in line.theirs for line in draft.lines):
            draft.leave(key, keys.take(key), "each data set has its own; see bucket")
    _encode(draft, keys)
    convert_training(draft, keys, num_processes=num_processes)
    _sample(draft, keys, folder=config.parent)
    experiment = keys.text("tracker_project_name", "sana-video")
    named = keys.present("tracker_project_name")
    draft.set("tracking.experiment", experiment, "of MLflow, whose runs name themselves", *named)
    account(draft, keys, CONFIG_LEFT, CONFIG_FAMILIES, MAPPED)
    return draft


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        ConfigError: it is missing, not readable or not JSON; names the line.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path} is not valid JSON: line {error.lineno}, column {error.colno}: {error.msg}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    except RecursionError:
        raise ConfigError(f"{path} is not valid JSON: brackets are nested too deep; is one left open?") from None


def faults_of(draft: Draft) -> list[tuple[str, str]]:
    """Return (what SimpleTuner does wrong, what is done here), as far as it concerns these files."""
    names = [name for line in draft.lines for name in line.theirs] + [left.key for left in draft.left]
    there = {part for name in names for part in name.split(".")}
    return [(fault, ours) for key, fault, ours in FAULTS if not key or key in there]


def _places(draft: Draft, keys: Keys) -> None:
    named = keys.present("output_dir")
    folder = keys.text("output_dir", ".sana").rstrip("/")
    draft.set("root", f"{folder}/store", "artifacts: a folder or s3://bucket/prefix, shared and append-only", *named)
    draft.set("work_dir", f"{folder}/work", "local: logs, locks, databases, checkpoints being written", *named)


def _model(draft: Draft, keys: Keys) -> None:
    family = keys.text("model_family", "sanavideo")
    if family != "sanavideo":
        raise ConfigError(f"model_family is {family!r}; only Sana Video (sanavideo) is trained here")
    named = keys.present("model_family", "pretrained_model_name_or_path")
    path = keys.text("pretrained_model_name_or_path", MODEL)
    draft.set("model.path", path, "transformer, text encoder and VAE in diffusers layout", *named)
    if keys.has("revision"):
        draft.set("model.revision", keys.text("revision"), "resolved to a commit at every run", "revision")
    vae = keys.take("pretrained_vae_model_name_or_path")
    if vae is not None:
        same = "the same repository" if vae == path else "another VAE makes latents this model has never seen"
        draft.leave("pretrained_vae_model_name_or_path", vae, f"the VAE is always the model's own: {same}")
    kind = keys.text("model_type", "full")
    if keys.has("model_type"):
        why = "all weights are trained, the only way there is"
        draft.leave("model_type", kind, why if kind == "full" else f"{why}: there is no {kind} here yet")


def _encode(draft: Draft, keys: Keys) -> None:
    off = keys.text("sana_complex_human_instruction", "True").lower() in ("none", "false")
    named = keys.present("sana_complex_human_instruction")
    draft.set(
        "encode_captions.template", "none" if off else "video", "the instruction diffusers puts before a caption",
        *named,
    )  # fmt: skip
    draft.set("encode_captions.dtype", "bf16", "the text encoder ships in bf16")
    batch = max(1, keys.integer("text_encoder_batch_size", 1))
    named = keys.present("text_encoder_batch_size")
    draft.set("encode_captions.batch_size", batch, "batches change the last bits", *named)
    draft.set("encode_latents.dtype", "fp16", "of what is stored: 73.6 dB of normalised latents, bf16 has 55.6")
    dtype = keys.text("vae_dtype", "fp32")
    named = keys.present("vae_dtype")
    draft.set(
        "encode_latents.vae_dtype", "bf16" if dtype == "bf16" else "fp32",
        "encoding in bf16, SimpleTuner's default, drifts; officially fp32", *named,
    )  # fmt: skip
    named = keys.present("vae_batch_size")
    draft.set(
        "encode_latents.batch_size", max(1, keys.integer("vae_batch_size", 1)), "batches change the last bits", *named
    )
    named = keys.present("vae_enable_tiling")
    draft.set("encode_latents.tiling", keys.flag("vae_enable_tiling"), "true: less memory, other latents", *named)


def _sample(draft: Draft, keys: Keys, *, folder: Path) -> None:
    named = keys.present("validation_resolution", "validation_num_video_frames")
    bucket, note = _shape(keys)
    draft.set("sample.bucket", bucket, f"frames x height x width{note}", *named)
    steps = max(1, keys.integer("validation_num_inference_steps", 50))
    for key, ours, value, why in (
        ("validation_num_inference_steps", "num_inference_steps", steps, "officially 50"),
        ("validation_guidance", "guidance_scale", max(1.0, keys.number("validation_guidance", 6.0)), "1 is off"),
        ("framerate", "fps", keys.number("framerate", 16.0), "of what is written, as there; clips keep their own"),
        ("validation_seed", "seed", max(0, keys.integer("validation_seed", 0)), "of the starting noise"),
        (
            "validation_negative_prompt",
            "negative_prompt",
            keys.text("validation_negative_prompt"),
            "empty: null caption",
        ),
    ):
        draft.set(f"sample.{ours}", value, why, *keys.present(key))
    average = keys.flag("use_ema") and keys.text("ema_validation", "comparison") != "none"
    named = keys.present("ema_validation")
    draft.set("sample.weights", "ema" if average else "live", "evaluate measures both", *named)
    _prompts(draft, keys, folder)


def _shape(keys: Keys) -> tuple[str, str]:
    """Return the sample bucket and what had to be changed for it."""
    asked = keys.text("validation_resolution", "832x480").split(",")[0].strip().lower()
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", asked)
    if match is None:
        raise ConfigError(f"{keys.where}: validation_resolution {asked!r} is not width x height, for example 832x480")
    width = int(match[1])
    height = int(match[2] or match[1])
    frames = keys.integer("validation_num_video_frames", 81)
    snapped = max(1, frames - (frames - 1) % 4)
    rows, columns = (max(16, round(side / 16) * 16) for side in (height, width))
    changed = [f"; {width}x{height} in multiples of 16"] if (rows, columns) != (height, width) else []
    changed += [f"; {frames} frames are not 4k + 1"] if snapped != frames else []
    changed += ["; the first of several"] if "," in keys.text("validation_resolution") else []
    return f"{snapped}x{rows}x{columns}", "".join(changed)


def _prompts(draft: Draft, keys: Keys, folder: Path) -> None:
    """The library, written out, and the single prompt."""
    if keys.has("validation_prompt"):
        draft.set("sample.prompts.validation", keys.text("validation_prompt"), "", "validation_prompt")
    if keys.has("user_prompt_library"):
        named = keys.text("user_prompt_library")
        # as SimpleTuner is started: from the folder above config/; or beside the file itself
        places = (Path(named), folder / named, folder / Path(named).name)
        path = next((place for place in places if place.is_file()), Path(named))
        library = read_json(path)
        if not isinstance(library, Mapping):
            raise ConfigError(f"{path} is not a prompt library: nickname: prompt pairs in braces are needed")
        for nickname, entry in library.items():
            prompt = entry.get("prompt") if isinstance(entry, Mapping) else entry
            if not isinstance(prompt, str) or not prompt:
                raise ConfigError(f"{path}: {nickname!r} has no prompt, but {entry!r}")
            name = re.sub(r"[^\w<>-]", "_", nickname) or "prompt"
            why = "" if name == nickname else f"{nickname!r} there: it names a file"
            draft.set(f"sample.prompts.{name}", prompt, why, "user_prompt_library")
    names = [line.key for line in draft.lines if line.key.startswith("sample.prompts.")]
    twins = sorted({name for name in names if names.count(name) > 1})
    if twins:
        raise ConfigError(f"two validation prompts would be called {twins[0].rpartition('.')[2]}; rename one")
    if not names:
        draft.set("sample.prompts.default", "a short video", "SimpleTuner had none; write what you want to see")
