"""The data loader file: each video backend becomes a data set with its captions and bucket rules."""

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from sana.convert.draft import Draft, Keys, account
from sana.convert.rules import Rules, rules_of, write_rules
from sana.convert.unsupported_keys import DATASET_FAMILIES, DATASET_LEFT, OTHER_TYPES
from sana.errors import ConfigError

# every key of a data set that is read below: what a misspelt one may have meant
MAPPED = (
    "id", "type", "dataset_type", "disabled", "disable", "instance_data_dir", "aws_bucket_name", "aws_data_prefix",
    "dataset_name", "revision", "csv_file", "csv_caption_column", "csv_url_column", "caption_strategy", "parquet",
    "instance_prompt", "prepend_instance_prompt", "only_instance_prompt", "repeats", "probability", "resolution",
    "resolution_type", "minimum_image_size", "maximum_image_size", "target_downsample_size", "crop", "crop_style",
    "crop_aspect", "minimum_aspect_ratio", "maximum_aspect_ratio", "video", "huggingface",
)  # fmt: skip
EVAL_FRACTION = 0.05


def convert_datasets(
    draft: Draft, backends: Sequence[Mapping[str, Any]], *, where: str, resolution: Any, resolution_type: Any
) -> None:
    """Write `download.datasets` and `bucket`.

    `resolution` and `resolution_type` are those of the main file, for data sets without their own.

    Raises:
        ConfigError: no data set of videos is there, or one has a type that cannot be read here.
    """
    defaults = {"resolution": resolution, "resolution_type": resolution_type}
    rules: list[Rules] = []
    ids: list[str] = []
    roles: list[str] = []
    for number, backend in enumerate(backends):
        name = str(backend.get("id") or f"entry-{number + 1}")
        draft.entries.append(name)
        keys = Keys(backend, f"{where}: {name}", f"{name}.")
        kind = keys.text("dataset_type", "image")
        if kind not in ("video", "eval"):
            _leave_out(draft, keys, kind)
            continue
        at = f"download.datasets.{len(ids)}"
        ids.append(_identify(draft, keys, at, name, ids))
        _source(draft, keys, at)
        _captions(draft, keys, f"{at}.captions")
        roles.append(_share(draft, keys, at, kind))
        rules.append(rules_of(draft, keys, defaults))
        account(draft, keys, DATASET_LEFT, DATASET_FAMILIES, MAPPED)
    if not ids:
        raise ConfigError(
            f"{where}: no entry has dataset_type: video, and only videos are trained here; "
            f"got {', '.join(str(b.get('dataset_type', 'image')) for b in backends) or 'an empty list'}"
        )
    write_rules(draft, rules)
    if "eval" in roles:
        draft.set("bucket.eval_fraction", 0.0, "the data sets with role: eval are what is held out")
    else:
        draft.set(
            "bucket.eval_fraction", EVAL_FRACTION, "SimpleTuner held nothing out; a stable eval loss needs some clips"
        )


def _leave_out(draft: Draft, keys: Keys, kind: str) -> None:
    if kind not in OTHER_TYPES:
        raise ConfigError(
            f"{keys.where}: dataset_type {kind!r} is not known; known are video, eval, {', '.join(OTHER_TYPES)}"
        )
    draft.leave(keys.name("dataset_type"), kind, f"the whole entry: {OTHER_TYPES[kind]}")
    for key, value in keys.rest().items():
        draft.leave(keys.name(key), value, f"belongs to the entry that is left out ({kind})")


def _identify(draft: Draft, keys: Keys, at: str, name: str, ids: Sequence[str]) -> str:
    keys.take("id")
    ours = re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("._-")[:64] or "clips"
    if ours in ids:
        raise ConfigError(f"{keys.where}: another entry becomes the data set id {ours!r} too; give it another id")
    why = "part of every clip_id" + ("" if ours == name else "; small letters, digits, . _ and - only")
    draft.set(f"{at}.id", ours, why, *keys.present("id", "dataset_type"))
    return ours


def _source(draft: Draft, keys: Keys, at: str) -> None:
    kind = keys.text("type", "local")
    their = keys.present("type")

    def needed(key: str) -> str:
        if not keys.has(key):
            raise ConfigError(f"{keys.where}: type {kind} needs {key}, which says where the videos are")
        return keys.text(key)

    if kind == "local":
        folder = needed("instance_data_dir")
        strategy = str(keys.take("caption_strategy"))
        table = str(keys.section("parquet").take("path", "")) if strategy == "parquet" else ""
        if table and not PurePosixPath(table).name.startswith("metadata."):
            draft.set(f"{at}.source", table, "the table names the videos, relative to itself", *their,
                      keys.name("parquet.path"), keys.name("instance_data_dir"))  # fmt: skip
            return
        if table:
            draft.leave(keys.name("parquet.path"), table, "a metadata file beside the videos is found by itself")
        draft.set(f"{at}.source", folder, "only ever read", *their, keys.name("instance_data_dir"))
    elif kind == "aws":
        bucket, prefix = needed("aws_bucket_name"), keys.text("aws_data_prefix").strip("/")
        draft.set(
            f"{at}.source", f"s3://{bucket}/{prefix}".rstrip("/"), "credentials: the ordinary AWS chain",
            *their, *keys.present("aws_bucket_name", "aws_data_prefix"),
        )  # fmt: skip
    elif kind == "huggingface":
        draft.set(f"{at}.source", f"hf://datasets/{needed('dataset_name')}", "the files of the hub's data set",
                  *their, keys.name("dataset_name"))  # fmt: skip
        if keys.has("revision"):
            draft.set(f"{at}.revision", keys.text("revision"), "resolved to a commit at every run",
                      keys.name("revision"))  # fmt: skip
    elif kind == "csv":
        draft.set(f"{at}.source", needed("csv_file"), "the table names the videos", *their, keys.name("csv_file"))
    else:
        raise ConfigError(
            f"{keys.where}: type {kind!r} cannot be read here; known are local, aws, huggingface and csv. "
            "Unpack it to a folder of videos with a .txt each"
        )


def _captions(draft: Draft, keys: Keys, at: str) -> None:
    strategy = keys.text("caption_strategy", "filename")
    their = keys.present("caption_strategy")
    prompt = keys.text("instance_prompt")
    prompts = keys.present("instance_prompt")
    only = keys.flag("only_instance_prompt")
    flags = keys.present("only_instance_prompt", "prepend_instance_prompt")
    if strategy == "instanceprompt" or only:
        if not prompt:
            raise ConfigError(f"{keys.where}: caption_strategy {strategy} needs instance_prompt, which is not there")
        keys.take("prepend_instance_prompt")
        draft.set(f"{at}.layout", "none", "one caption for every clip", *their, *flags)
        draft.set(f"{at}.fallback", prompt, "that caption", *prompts)
        return
    if strategy == "textfile":
        draft.set(f"{at}.layout", "textfile", "<name>.txt beside <name>.mp4, each line an alternative", *their)
        draft.set(f"{at}.missing", "reject", "a clip without a caption ended a run of SimpleTuner; here it is listed")
    elif strategy in ("parquet", "csv", "huggingface"):
        _columns(draft, keys, at, strategy)
    else:
        draft.set(f"{at}.layout", "auto", f"caption_strategy {strategy} is not known here: write a .txt a clip", *their)
    if keys.flag("prepend_instance_prompt") and prompt:
        draft.set(f"{at}.prefix", f"{prompt} ", "put before every caption", *prompts, *flags)
    else:
        for key in ("instance_prompt", "only_instance_prompt", "prepend_instance_prompt"):
            if keys.has(key):
                draft.leave(keys.name(key), keys.take(key), f"of no effect with caption_strategy {strategy}")


def _columns(draft: Draft, keys: Keys, at: str, strategy: str) -> None:
    """Captions in a table: its column names; a parquet table apart from the videos is the source itself."""
    their = keys.present("caption_strategy")
    apart = any(line.key.endswith(".source") and keys.name("parquet.path") in line.theirs for line in draft.lines)
    layout = "metadata" if strategy == "parquet" and not apart else "auto"
    draft.set(f"{at}.layout", layout, "captions stand in a table", *their)
    below = keys.section("parquet" if strategy == "parquet" else "huggingface")
    if strategy == "csv":
        video, text = ("csv_url_column", "url"), ("csv_caption_column", "caption")
        below = keys
    elif strategy == "parquet":
        video, text = ("filename_column", ""), ("caption_column", "")
        below.take("path")
    else:
        video, text = ("video_column", ""), ("caption_column", "")
    for (key, default), ours in ((video, "video_column"), (text, "text_columns")):
        found = below.take(key, default)
        if found:
            names = found if isinstance(found, list) else [found]
            value = names if ours == "text_columns" else str(names[0])
            draft.set(f"{at}.{ours}", value, "name of the column", *below.present(key))
    if below is not keys:
        account(draft, below, {}, {"": "read from the videos and the table themselves"}, ())
        draft.set(f"{at}.missing", "reject", "listed in rejects.parquet", keys.name(strategy))


def _share(draft: Draft, keys: Keys, at: str, kind: str) -> str:
    """How much of the epoch a data set is; returns its role."""
    if kind == "eval":
        draft.set(f"{at}.role", "eval", "held out for the eval loss", keys.name("dataset_type"))
    probability = keys.number("probability", 1.0)
    off = [key for key in ("disabled", "disable") if keys.flag(key)]
    named = keys.present("disabled", "disable")
    if probability <= 0:
        named.append(keys.name("probability"))
    draft.set(f"{at}.disabled", bool(off) or probability <= 0, "true leaves the data set out", *named)
    repeats = keys.integer("repeats", 0)
    named = keys.present("repeats")
    draft.set(f"{at}.repeats", max(0, repeats), "extra passes, as in SimpleTuner: 0 is once, N is N + 1 times", *named)
    if keys.has("probability") and probability > 0:
        draft.set(f"{at}.sampling_weight", probability,
                  "factor on the passes in an epoch; there: on the chance of a draw",
                  keys.name("probability"))  # fmt: skip
    draft.set(f"{at}.max_rejected_fraction", 0.05, "more bad files than this is a reason to look")
    return "eval" if kind == "eval" and not off and probability > 0 else "split"
