"""The data loader file: each backend of videos or images becomes a data set with its captions and bucket rules."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from sana.bucket import TEMPORAL_STRIDE
from sana.convert.bucket_rules import MODEL_FRAMES, RULE_KEYS, Rules, rules_of, write_rules
from sana.convert.conversion import Conversion, Keys, account
from sana.convert.features.masks import convert_masks, is_mask
from sana.convert.mapping import Group, Row, Run, Table, at_least, mapped_names
from sana.convert.places import covers_training
from sana.convert.unsupported_keys import OTHER_TYPES
from sana.errors import ConfigError

EVAL_FRACTION = 0.05
# type: (the key that says where the videos are, our source, why)
SOURCES = {
    "local": ("instance_data_dir", "{}", "only ever read"),
    "aws": ("aws_bucket_name", "s3://{}", "credentials: the ordinary AWS chain"),
    "huggingface": ("dataset_name", "hf://datasets/{}", "the files of the hub's data set"),
    "csv": ("csv_file", "{}", "the table names the videos"),
}


def convert_datasets(conversion: Conversion, main: Keys, run: Run) -> None:
    """Write `download.datasets` and `bucket`; the resolution of config.json is that of data sets without their own.

    Raises:
        ConfigError: no data set of videos is there, or one has a type that cannot be read here.
    """
    rules: list[Rules] = []
    kinds: list[str] = []
    for number, backend in enumerate(run.datasets):
        name = str(backend.get("id") or f"entry-{number + 1}")
        conversion.entries.append(name)
        keys = Keys(backend, f"{run.where}: {name}", f"{name}.")
        kinds.append(keys.text("dataset_type", "image"))
        if kinds[-1] not in ("video", "eval", "image"):
            _leave_out(conversion, keys, kinds[-1], backend)
            continue
        for row in DATASET_KEYS:
            row.write(conversion, keys, replace(run, at=f"download.datasets.{len(rules)}.", entry=backend))
        rules.append(rules_of(conversion, keys, main))
        account(conversion, keys, [*mapped_names(DATASET_KEYS), *RULE_KEYS])
    if not rules:
        raise ConfigError(
            f"{run.where}: no entry has dataset_type: video or image, and only these are trained on; "
            f"got {', '.join(kinds) or 'an empty list'}"
        )
    write_rules(conversion, rules)
    for key in ("resolution", "resolution_type"):
        if main.has(key) and not any(key in setting.theirs for setting in conversion.settings):
            conversion.leave_out(key, main.take(key), "each data set has its own; see bucket")
    each = [f"download.datasets.{number}" for number in range(len(rules))]
    if any(conversion.value(f"{at}.role") == "eval" and not conversion.value(f"{at}.disabled") for at in each):
        fraction, why = 0.0, "the data sets with role: eval are what is held out"
    else:
        fraction, why = EVAL_FRACTION, "SimpleTuner held nothing out; a stable eval loss needs some clips"
    conversion.set("bucket.eval_fraction", fraction, why)


def _leave_out(conversion: Conversion, keys: Keys, kind: str, entry: Mapping[str, Any]) -> None:
    if kind not in OTHER_TYPES:
        raise ConfigError(
            f"{keys.where}: dataset_type {kind!r} is not known; known are video, eval, {', '.join(OTHER_TYPES)}"
        )
    why = "masks of the data set that names it" if is_mask(entry) else OTHER_TYPES[kind]
    conversion.leave_out(keys.name("dataset_type"), kind, f"the whole entry: {why}")
    for key, value in keys.rest().items():
        conversion.leave_out(keys.name(key), value, f"belongs to the entry that is left out ({kind})")


def _identity(conversion: Conversion, keys: Keys, run: Run) -> None:
    keys.take("id")
    name = conversion.entries[-1]
    ours = re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("._-")[:64] or "clips"
    if any(setting.key.endswith(".id") and setting.value == ours for setting in conversion.settings):
        raise ConfigError(f"{keys.where}: another entry becomes the data set id {ours!r} too; give it another id")
    why = "part of every clip_id" + ("" if ours == name else "; small letters, digits, . _ and - only")
    conversion.set(f"{run.at}id", ours, why, *keys.present("id", "dataset_type"))


def _source(conversion: Conversion, keys: Keys, run: Run) -> None:
    kind, at = keys.text("type", "local"), f"{run.at}source"
    if kind not in SOURCES:
        raise ConfigError(
            f"{keys.where}: type {kind!r} cannot be read here; known are {', '.join(SOURCES)}. "
            "Unpack it to a folder of videos with a .txt each"
        )
    key, form, why = SOURCES[kind]
    if not keys.has(key):
        raise ConfigError(f"{keys.where}: type {kind} needs {key}, which says where the videos are")
    source = form.format(keys.text(key))
    named = keys.present("type", key)
    if kind == "aws":
        source = f"{source}/{keys.text('aws_data_prefix').strip('/')}".rstrip("/")
        named += keys.present("aws_data_prefix")
    elif kind == "local" and keys.text("caption_strategy") == "parquet":
        path = keys.section("parquet").text("path")
        if path and not PurePosixPath(path).name.startswith("metadata."):
            source, why = path, "the table names the videos, relative to itself"
            named.insert(-1, keys.name("parquet.path"))
        elif path:
            conversion.leave_out(
                keys.name("parquet.path"), path, "a metadata file beside the videos is found by itself"
            )
    conversion.set(at, source, why, *named)
    if kind == "huggingface" and keys.has("revision"):
        conversion.set(f"{run.at}revision", keys.text("revision"), "resolved to a commit at every run",
                       keys.name("revision"))  # fmt: skip


def _captions(conversion: Conversion, keys: Keys, run: Run) -> None:
    at = f"{run.at}captions"
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
        conversion.set(f"{at}.layout", "none", "one caption for every clip", *their, *flags)
        conversion.set(f"{at}.fallback", prompt, "that caption", *prompts)
        return
    if strategy == "textfile":
        whole = keys.present("disable_multiline_split")
        is_whole = keys.flag("disable_multiline_split")
        each = "the whole file one caption" if is_whole else "each line an alternative"
        conversion.set(f"{at}.layout", "textfile", f"<name>.txt beside <name>.mp4, {each}", *their)
        if whole:
            conversion.set(f"{at}.lines", "one" if is_whole else "alternatives", each, *whole)
        conversion.set(
            f"{at}.missing", "reject", "a clip without a caption ended a run of SimpleTuner; here it is listed"
        )
    elif strategy in ("parquet", "csv", "huggingface"):
        _columns(conversion, keys, at, strategy)
    else:
        conversion.notes.append(f"{conversion.entries[-1]} needs captions: no caption_strategy {strategy} here")
        conversion.set(
            f"{at}.layout", "auto", f"caption_strategy {strategy} is not known here: write a .txt a clip", *their
        )
    if keys.flag("prepend_instance_prompt") and prompt:
        conversion.set(f"{at}.prefix", f"{prompt} ", "put before every caption", *prompts, *flags)
    else:
        for key in ("instance_prompt", "only_instance_prompt", "prepend_instance_prompt"):
            if keys.has(key):
                conversion.leave_out(keys.name(key), keys.take(key), f"of no effect with caption_strategy {strategy}")


def _columns(conversion: Conversion, keys: Keys, at: str, strategy: str) -> None:
    """Captions in a table: its column names; a parquet table apart from the videos is the source itself."""
    their = keys.present("caption_strategy")
    path = keys.name("parquet.path")
    apart = any(one.key.endswith(".source") and path in one.theirs for one in conversion.settings)
    layout = "metadata" if strategy == "parquet" and not apart else "auto"
    conversion.set(f"{at}.layout", layout, "captions are in a table", *their)
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
            conversion.set(f"{at}.{ours}", value, "name of the column", *below.present(key))
    if below is not keys:
        account(conversion, below, (), rest="read from the videos and the table themselves")
        conversion.set(f"{at}.missing", "reject", "listed in rejects.parquet", keys.name(strategy))


def _sampling(conversion: Conversion, keys: Keys, run: Run) -> None:
    """How often a data set is drawn; its role."""
    why, trained = "true leaves the data set out", ""
    if keys.text("dataset_type") == "eval":
        conversion.set(f"{run.at}role", "eval", "held out for the eval loss", keys.name("dataset_type"))
        if trained := covers_training(run.entry, run):
            conversion.notes.append(f"{conversion.entries[-1]} is left out: it has what {trained} trains on")
            why = f"its folder is that of {trained}, which is trained on; bucket.eval_fraction holds out a part instead"
    probability = keys.number("probability", 1.0)
    off = any([keys.flag("disabled"), keys.flag("disable"), probability <= 0, trained])
    named = keys.present("disabled", "disable", *(["probability"] if probability <= 0 else []))
    conversion.set(f"{run.at}disabled", off, why, *named)
    if keys.has("probability") and probability > 0:
        conversion.set(f"{run.at}sampling_weight", probability,
                       "factor on the draws per epoch; there: on the chance of a draw",
                       keys.name("probability"))  # fmt: skip


def _conditions(conversion: Conversion, keys: Keys, run: Run) -> None:
    """`is_i2v` of an entry, or of its `video` block: the first frame of each sample is given."""
    video = keys.section("video")
    found = [one for one in (keys, video) if one.has("is_i2v")]
    asked = [one.flag("is_i2v") for one in found]
    named = [one.name("is_i2v") for one in found]
    why_not = "" if any(asked) else "samples are text to video where no condition is set"
    if keys.text("dataset_type", "image") == "image":
        why_not = "of one frame nothing is left to learn where it is given"
    elif keys.text("dataset_type") == "eval":
        why_not = "nothing is trained on what is held out; its loss is measured for each condition of train"
    elif video.integer("num_frames", MODEL_FRAMES) < 1 + TEMPORAL_STRIDE:
        why_not = "of one frame nothing is left to learn where it is given"
    if why_not:
        for name, value in zip(named, asked, strict=True):
            conversion.leave_out(name, value, why_not)
        return
    why = "the first frame of every sample is given; there it had no effect on Sana Video"
    conversion.set(f"{run.at}conditions.0.name", "image_to_video", why, *named)
    conversion.set(f"{run.at}conditions.0.probability", 1.0, "less: the rest is text to video")
    conversion.notes.append(f"{conversion.entries[-1]} trains image to video")


DATASET_KEYS: Table = (
    Group("id dataset_type", _identity),
    Group("type instance_data_dir aws_bucket_name aws_data_prefix dataset_name revision csv_file parquet", _source),
    Group("caption_strategy csv_caption_column csv_url_column parquet huggingface instance_prompt "
          "prepend_instance_prompt only_instance_prompt disable_multiline_split", _captions),
    Group("dataset_type disabled disable probability", _sampling),
    Group("is_i2v", _conditions),
    Group("conditioning_data", convert_masks),
    Row("repeats", "repeats", 0, "extra draws per epoch, as in SimpleTuner: 0 is once, N is N + 1 times", at_least(0)),
    Row("max_rejected_fraction", "", 0.05, "more bad files than this is a reason to look"),
)  # fmt: skip
