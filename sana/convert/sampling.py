"""Validation videos: their size, the weights they are made from, and their prompts."""

import re
from collections.abc import Mapping
from pathlib import Path

from sana.convert.conversion import Conversion, Keys, read_json
from sana.convert.mapping import Run
from sana.errors import ConfigError

VALIDATION_STEPS = 100  # SimpleTuner's default
LIBRARY = "user_prompt_library.json"  # the name in SimpleTuner's guides


def convert_bucket(conversion: Conversion, keys: Keys, run: Run) -> None:
    """Write `sample.bucket`. Raises ConfigError: the resolution is not width x height."""
    named = keys.present("validation_resolution", "validation_num_video_frames")
    (bucket, note), *others = _buckets(keys)
    note += f"; train.validation has all {1 + len(others)}" if others else ""
    conversion.set("sample.bucket", bucket, f"frames x height x width{note}", *named)


def _buckets(keys: Keys) -> list[tuple[str, str]]:
    """Return the shapes of validation videos, each with what is otherwise than asked."""
    frames = keys.integer("validation_num_video_frames", 81)
    snapped = max(1, frames - (frames - 1) % 4)
    found: list[tuple[str, str]] = []
    for asked in (part.strip().lower() for part in keys.text("validation_resolution", "832x480").split(",")):
        match = re.fullmatch(r"(\d+)(?:x(\d+))?", asked)
        if match is None:
            raise ConfigError(
                f"{keys.where}: validation_resolution {asked!r} is not width x height, for example 832x480"
            )
        width, height = int(match[1]), int(match[2] or match[1])
        rows, columns = (max(16, round(side / 16) * 16) for side in (height, width))
        note = f"; {width}x{height} in multiples of 16" if (rows, columns) != (height, width) else ""
        note += f"; {frames} frames are not 4k + 1" if snapped != frames else ""
        bucket = f"{snapped}x{rows}x{columns}"
        if bucket not in [before for before, _ in found]:
            found.append((bucket, note))
    return found


def convert_validation(conversion: Conversion, keys: Keys, run: Run) -> None:
    """Write `train.validation`: videos while training, as often as there. Raises ConfigError as `convert_bucket`."""
    at, named = "train.validation", keys.present("validation_steps", "validation_step_interval")
    every = keys.integer("validation_step_interval", keys.integer("validation_steps", VALIDATION_STEPS))
    off = keys.flag("validation_disable")
    conversion.set(f"{at}.every", 0 if off else max(0, every), "steps between validation videos; 0: none",
                   *named, *keys.present("validation_disable"))  # fmt: skip
    conversion.set(f"{at}.at_start", keys.flag("validation_on_startup") and not off, "before the first step",
                   *keys.present("validation_on_startup"))  # fmt: skip
    if previews := keys.present("validation_preview", "validation_preview_steps"):
        steps = keys.integer("validation_preview_steps", 1)
        conversion.set(f"{at}.preview_every", min(max(1, steps), 1000) if keys.flag("validation_preview") else 0,
                       "sampler steps between pictures of what a video becomes; 0: none", *previews)  # fmt: skip
    chosen = keys.text("ema_validation", "comparison") if keys.flag("use_ema") else "none"
    weights = {"comparison": "both", "ema_only": "ema"}.get(chosen, "live")
    conversion.set(f"{at}.weights", weights, "both: of EMA and live weights side by side")
    buckets = [bucket for bucket, _ in _buckets(keys)]
    if len(buckets) > 1:
        conversion.set(f"{at}.buckets", buckets, "all that were asked for",
                       *keys.present("validation_resolution"))  # fmt: skip


def convert_weights(conversion: Conversion, keys: Keys, run: Run) -> None:
    ema = keys.flag("use_ema") and keys.text("ema_validation", "comparison") != "none"
    named = keys.present("ema_validation")
    conversion.set("sample.weights", "ema" if ema else "live", "evaluate measures both", *named)


def convert_prompts(conversion: Conversion, keys: Keys, run: Run) -> None:
    """Write `sample.prompts`: the single prompt, and the library written out.

    Raises:
        ConfigError: the library is missing or is none, or two prompts would have one name.
    """
    prompts = {}
    if keys.has("validation_prompt"):
        prompts["validation"] = keys.text("validation_prompt")
        conversion.set("sample.prompts.validation", prompts["validation"], "", "validation_prompt")
    path, named = _library_path(keys, run.folder), keys.present("user_prompt_library")
    if path is not None and not named:
        conversion.notes.append(f"{path.name} is taken along")
    for nickname, prompt in _library(path).items():
        name = re.sub(r"[^\w<>-]", "_", nickname) or "prompt"
        if name in prompts:
            raise ConfigError(f"{path}: two validation prompts would be called {name}; rename one")
        prompts[name] = prompt
        why = "" if name == nickname else f"{nickname!r} there: it names a file"
        conversion.set(f"sample.prompts.{name}", prompt, why, *named)
    if not prompts:
        conversion.set(
            "sample.prompts.default", "a short video", "SimpleTuner had none; write what you want to see"
        )  # fmt: skip


def _library_path(keys: Keys, folder: Path) -> Path | None:
    """Return the prompt library that is named, or the one that lies beside config.json."""
    if not keys.has("user_prompt_library"):
        beside = folder / LIBRARY
        return beside if beside.is_file() else None
    named = keys.text("user_prompt_library")
    # as SimpleTuner is started: from the folder above config/; or beside the file itself
    places = (Path(named), folder / named, folder / Path(named).name)
    return next((place for place in places if place.is_file()), Path(named))


def _library(path: Path | None) -> dict[str, str]:
    """Read {nickname: prompt}; empty without a library."""
    if path is None:
        return {}
    library = read_json(path)
    if not isinstance(library, Mapping):
        raise ConfigError(f"{path} is not a prompt library: nickname: prompt pairs in braces are needed")
    prompts = {}
    for nickname, entry in library.items():
        prompt = entry.get("prompt") if isinstance(entry, Mapping) else entry
        if not isinstance(prompt, str) or not prompt:
            raise ConfigError(f"{path}: {nickname!r} has no prompt, but {entry!r}")
        prompts[nickname] = prompt
    return prompts
