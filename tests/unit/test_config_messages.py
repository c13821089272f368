"""What the config says of each mistake: in YAML's words, one line each, and nothing that only follows from another."""

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel

from sana.config.load import check, load_config
from sana.config.messages import OTHER_NAMES, PATTERNS
from sana.config.pipeline import Config
from sana.config.section import union_members
from sana.errors import ConfigError
from tests.config_keys import dotted

OPTIMIZERS = "adamw, adafactor, adamw_bf16, optimi_adamw, adamw_8bit, muon, prodigy, came"

DEMO = Path(__file__).parents[2] / "configs/demo.yaml"
PYDANTIC = r"Input should|instance of|tuple|dictionary|\bvalid (string|integer|number|boolean)|unable to|validation err"
NOTHING = "(got nothing): write it, or remove the key"
KEYS = "keys and values below it are needed"
NO_FP16 = "'fp16' is none of fp32, tf32, bf16; did you mean bf16?"
DEVICE = "must be auto, cpu, cuda, or one GPU such as cuda:0"


def lines(*overrides: str) -> list[str]:
    """The mistakes of the demo's config with these overrides."""
    with pytest.raises(ConfigError) as caught:
        load_config(DEMO, overrides)
    first, *rest = str(caught.value).splitlines()
    assert re.search(rf": {len(rest)} mistakes?$", first), str(caught.value)
    return [line.removeprefix("  ") for line in rest]


# Overrides, joined by ` | `, and every line that they give.
MISTAKES: list[tuple[str, list[str]]] = [
    # another kind of value
    ("train.max_steps=many", ["train.max_steps: a whole number is needed (got 'many')"]),
    ("train.max_steps=1.5", ["train.max_steps: a whole number is needed, without a fraction (got 1.5)"]),
    ("train.max_steps=", [f"train.max_steps: a whole number is needed {NOTHING}"]),
    ("train.max_steps=true", ["train.max_steps: a whole number is needed (got 'true')"]),
    ("train.max_steps=[5]", ["train.max_steps: a whole number is needed (got [5])"]),
    ("train.learning_rate=fast", ["train.learning_rate: a number is needed (got 'fast')"]),
    ("train.learning_rate=false", ["train.learning_rate: a number is needed (got 'false')"]),
    ("train.learning_rate=.nan", ["train.learning_rate: a finite number is needed (got .nan)"]),
    ("bucket.crop=maybe", ["bucket.crop: true or false is needed (got 'maybe')"]),
    ("bucket.crop=null", [f"bucket.crop: true or false is needed {NOTHING}"]),
    ("bucket.buckets=17x96x160", ["bucket.buckets: a list is needed, such as [17x96x160] (got '17x96x160')"]),
    ("bucket.buckets=[5]", ['bucket.buckets.0: a text is needed (got 5): put it in quotes, "5"']),
    ("bucket.holdout=bunny", ["bucket.holdout: a list is needed, such as [bunny] (got 'bunny')"]),
    ("download.datasets={id: a}", [
        'download.datasets: a list is needed, put `- ` before its first key (got {"id": "a"})']),
    ("download.datasets=[clips]", [f"download.datasets.0: {KEYS} (got 'clips')"]),
    ("download.datasets=[]", ["download.datasets: is empty; at least 1 entry is needed"]),
    ("download.datasets.0.id=5", ['download.datasets.0.id: a text is needed (got 5): put it in quotes, "5"']),
    ("download.datasets.0.id=true", ['download.datasets.0.id: a text is needed (got true): put it in quotes, "true"']),
    ("download.datasets.0.source={a: b}", ['download.datasets.0.source: a text is needed (got {"a": "b"})']),
    ("download.datasets.0.captions=textfile", [f"download.datasets.0.captions: {KEYS} (got 'textfile')"]),
    ("download.datasets.0.bucket=5", [f"download.datasets.0.bucket: {KEYS} (got 5)"]),
    ("train=", [f"train: {KEYS} {NOTHING}"]),
    ("train.resources=", [f"train.resources: {KEYS} {NOTHING}"]),
    ("bucket=81x480x832", [f"bucket: {KEYS} (got '81x480x832')"]),
    ("filter_captions=yes", [f"filter_captions: {KEYS} (got 'yes')"]),
    ("sample.prompts=[a cat]", [f'sample.prompts: {KEYS}, such as `first: a cat` (got ["a cat"])']),
    ("sample.prompts=a cat", [f"sample.prompts: {KEYS}, such as `first: a cat` (got 'a cat')"]),
    ("train=max_steps:120", [
        f"train: {KEYS}, with a blank after the `:`, such as `max_steps: 120` (got 'max_steps:120')"]),
    ("model=s3://b/p", [f"model: {KEYS} (got 's3://b/p')"]),
    ("download.datasets={demo: {source: x}}", [
        "download.datasets: a list is needed, write `- id: demo` instead of `demo:` "
        '(got {"demo": {"source": "x"}})']),
    # numbers as people write them
    ("train.max_steps=10k", ["train.max_steps: a whole number is needed: write 10000 (got '10k')"]),
    ("train.max_steps=1.5M", ["train.max_steps: a whole number is needed: write 1500000 (got '1.5M')"]),
    ("train.max_steps=40,000", ["train.max_steps: a whole number is needed: write 40000 (got '40,000')"]),
    ("train.max_steps=5%", ["train.max_steps: a whole number is needed (got '5%')"]),
    ("train.max_steps=1.2.3", ["train.max_steps: a whole number is needed (got '1.2.3')"]),
    ("train.learning_rate=0,0001", ["train.learning_rate: a number is needed: write 0.0001 (got '0,0001')"]),
    ("download.datasets.0.max_rejected_fraction=20%", [
        "download.datasets.0.max_rejected_fraction: a number is needed: write 0.2 (got '20%')"]),
    ("train.resources={log_every: 40,000}", [
        "train.resources.000: unknown key; a `,` begins another key: write 40000, not 40,000"]),
    ("bucket.buckets=[17x96x160 9x96x160]", [
        "bucket.buckets: bucket '17x96x160 9x96x160' is not frames x height x width, for example 81x480x832; "
        "between two of them a `,` is needed"]),
    ("work_dir=$HOME/work", ["work_dir: $HOME is not filled in here; write the path itself (got '$HOME/work')"]),
    ("root=${DATA}/store", ["root: ${DATA} is not filled in here; write the path itself (got '${DATA}/store')"]),
    ("sample.prompts={}", ["sample.prompts: is empty; at least 1 entry is needed"]),
    ("sample.prompts={cat: 5}", ['sample.prompts.cat: a text is needed (got 5): put it in quotes, "5"']),
    ("train.optimizer=", [
        "train.optimizer: a section of keys is needed, such as train.optimizer.name=adamw (got null)"]),
    ("train.optimizer=adafactor", [
        "train.optimizer: a section of keys is needed, such as train.optimizer.name=adafactor (got 'adafactor')"]),
    ("train.optimizer.name=[adamw]", ['train.optimizer.name: there is no ["adamw"]; known here: ' + OPTIMIZERS]),
    # another value
    ("model.path=''", ["model.path: is empty; at least 1 character is needed"]),
    ("train.max_steps=0", ["train.max_steps: must be at least 1 (got 0)"]),
    ("train.ema_decay=1", ["train.ema_decay: must be below 1 (got 1)"]),
    ("bucket.frame_interval=6", ["bucket.frame_interval: must be a multiple of 4 (got 6)"]),
    ("bucket.window=hed", [
        "bucket.window: 'hed' is none of head, middle, random, uniform, stride; did you mean head?"]),
    ("train.mixed_precision=fp16", [f"train.mixed_precision: {NO_FP16}"]),
    ("sample.resources.device=gpu", [f"sample.resources.device: {DEVICE} (got 'gpu')"]),
    ("download.datasets.0.id=My Clips", [
        f"download.datasets.0.id: {PATTERNS['^[a-z0-9][a-z0-9._-]{0,63}$']} (got 'My Clips')"]),
    ('download.datasets.0.captions.delimiter="::"', [
        "download.datasets.0.captions.delimiter: must be auto, tab, or one character such as , ; or | (got '::')"]),
    # an unknown key
    ("train.checkpoint_every=4", [
        "train.checkpoint_every: unknown key; did you mean train.resources.checkpoint_every?"]),
    ("learning_rate=1", ["learning_rate: unknown key; did you mean train.learning_rate?"]),
    ("train.lr=1e-4", ["train.lr: unknown key; did you mean train.learning_rate?"]),
    ("train.steps=5", ["train.steps: unknown key; did you mean train.max_steps?"]),
    ("sample.steps=5", ["sample.steps: unknown key; did you mean sample.num_inference_steps?"]),
    ("epochs=3", ["epochs: unknown key; did you mean train.max_steps?"]),
    ("download.datasets.0.path=x", ["download.datasets.0.path: unknown key; did you mean download.datasets.0.source?"]),
    ("train.optimizer.name=AdamW", [
        f"train.optimizer.name: there is no AdamW; known here: {OPTIMIZERS}; did you mean adamw?"]),
    ("train.mixed_precision=BF16", [
        "train.mixed_precision: 'BF16' is none of fp32, tf32, bf16; did you mean bf16?"]),
    ("buckets=[17x96x160]", [
        "buckets: unknown key; did you mean bucket.buckets or train.validation.buckets or "
        "download.datasets.0.bucket.buckets?"]),
    ("seed=3", ["seed: unknown key; did you mean train.seed or sample.seed?"]),
    ("train.delta=3", ["train.delta: unknown key; did you mean train.objective.delta?"]),
    ("bucket.text_columns=[a]", [
        "bucket.text_columns: unknown key; did you mean download.datasets.0.captions.text_columns?"]),
    ("download={id: a}", ["download.id: unknown key; did you mean download.datasets.0.id?"]),
    ("trian.max_steps=3", ["trian: unknown key; did you mean train?"]),
    ("7=x", [f"7: unknown key; known here: {', '.join(Config.model_fields)}"]),
    ("train.objective.delta=2", [
        "train.objective.delta: no setting of flow_matching, but of huber: -s train.objective.name=huber; "
        "to keep flow_matching, remove it: -s 'train.objective={name: flow_matching}'"]),
    # what only follows from another mistake is not said
    ("filter_captions.min_words=0", ["filter_captions.min_words: must be at least 1 (got 0)"]),
    ("filter_captions={min_word: 3}", ["filter_captions.min_word: unknown key; did you mean min_words?"]),
    ("bucket={max_frames: -5, too_long: reject}", ["bucket.max_frames: must be at least 1 (got -5)"]),
    ("bucket={max_frame: 99, too_long: reject}", ["bucket.max_frame: unknown key; did you mean max_frames?"]),
    ("bucket={table: resolution, resolution: 480p}", ["bucket.resolution: a number is needed (got '480p')"]),
    ("bucket={window: stride, windows_per_clip: 0}", ["bucket.windows_per_clip: must be at least 1 (got 0)"]),
    ("train={max_stepss: 5, global_batch_size: 4}", ["train.max_stepss: unknown key; did you mean max_steps?"]),
    ("bucket={eval_fraction: 0, holdout: a}", [
        "bucket.holdout: a list is needed, such as [a] (got 'a')"]),
    ("download.datasets.0.captions={missing: fallback, fallback: 5}", [
        'download.datasets.0.captions.fallback: a text is needed (got 5): put it in quotes, "5"']),
    ("train.decay_steps=5", [
        "train.decay_steps: is now train.lr_schedule.decay_steps, which needs -s train.lr_schedule.name=cosine"]),
    # but what does not follow is, at its place in the file
    ("download.datasets=[clips, {id: a, source: b, captions: {fallback: f}}]", [
        f"download.datasets.0: {KEYS} (got 'clips')",
        "download.datasets.1.captions: fallback has no effect with missing: reject; "
        "set missing: fallback, or remove it"]),
    ("bucket={max_frames: 60, crop: maybe}", [
        "bucket.crop: true or false is needed (got 'maybe')",
        "bucket: max_frames 60 leaves no clip: 81 frames are needed"]),
    ("train.max_grad_norm=0 | train.global_batch_size=6", [
        "train.max_grad_norm: must be above 0 (got 0)",
        "train: global_batch_size 6 is not a multiple of num_processes x micro_batch_size = 1 x 4; use 8"]),
]  # fmt: skip


@pytest.mark.parametrize(("overrides", "expected"), MISTAKES, ids=[overrides for overrides, _ in MISTAKES])
def test_a_mistake_is_said_once_in_the_words_of_yaml(overrides: str, expected: list[str]) -> None:
    found = lines(*overrides.split(" | "))
    assert found == expected
    assert not re.search(PYDANTIC, "\n".join(found))


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("bucket.crop=yes", "bucket.crop", True),
        ("bucket.crop=on", "bucket.crop", True),
        ("bucket.crop=off", "bucket.crop", False),
        ("bucket.crop=No", "bucket.crop", False),
        ("download.datasets.0.captions.text_columns=[no, on, y]", "download.datasets.0.captions.text_columns",
         ("no", "on", "y")),
        ("download.datasets.0.id=no", "download.datasets.0.id", "no"),
        ("download.datasets.0.id=007", "download.datasets.0.id", "007"),
        ("download.datasets.0.revision=2024-01-01", "download.datasets.0.revision", "2024-01-01"),
        ("sample.prompts={1: one, no: two, 0x1f: three}", "sample.prompts", {"1": "one", "no": "two", "0x1f": "three"}),
        ("sample.prompts={wide: 16:9}", "sample.prompts", {"wide": "16:9"}),
        ("train.max_steps=1_000", "train.max_steps", 1000),
        ("train.max_steps=1e3", "train.max_steps", 1000),
        ("train.learning_rate=5e-5", "train.learning_rate", 5e-5),
        ("train.learning_rate=1.5E-5", "train.learning_rate", 1.5e-5),
        ("filter_captions=~", "filter_captions", None),
    ],
)  # fmt: skip
def test_where_the_choice_is_clear_it_is_taken(override: str, key: str, value: object) -> None:
    found: Any = load_config(DEMO, [override])
    for part in key.split("."):
        found = found[int(part)] if part.isdigit() else getattr(found, part)
    assert found == value and type(found) is type(value)


def test_yaml_written_by_others_reads_back_the_same() -> None:
    """Merge keys and anchors work, and what PyYAML writes is what we read."""
    values = load_config(DEMO).model_dump(mode="json")
    assert check(yaml.safe_load(yaml.safe_dump(values)), where="x") == load_config(DEMO)
    merged = load_config(DEMO, ["encode_latents={<<: {dtype: bf16}, tiling: true}"]).encode_latents
    assert (merged.dtype, merged.tiling) == ("bf16", True)


@pytest.mark.parametrize(
    ("text", "place", "hint"),
    [
        ("holdout: [*.mp4]", (1, 12), "a text that begins with * is an alias: put the text in quotes, '*.mp4'"),
        ("holdout: *all", (1, 10), "a text that begins with * is an alias"),
        ("prompt: a cat: black", (1, 14), "if a text has ': ' in it, put the text in quotes"),
        ("train:\n\tseed: 1", (2, 1), "indent with spaces, not with tabs"),
        ("source: @home", (1, 9), "a text cannot begin with this: put the text in quotes"),
        ("source: !clips", (1, 9), "a text that begins with ! is a tag: put the text in quotes"),
        ('source: "C:\\clips"', (1, 13), "in double quotes \\ begins an escape: use single quotes, or / in paths"),
        ("source: 'clips", (1, 15), "the quote is not closed"),
        ("buckets: [17x96x160", (1, 20), "the bracket is not closed, or a text in it needs quotes"),
        ("prompt: 'he said 'hi''", (1, 19), "text follows a closing quote or bracket: put all of it in quotes"),
        ("prompt: {a} dog", (1, 13), "text follows a closing quote or bracket: put all of it in quotes"),
        ("train:\n  seed: 1\n max_steps: 2", (3, 2), "the indentation fits no line above, or a `:` is missing"),
        ("prompt: - dog", (1, 9), "put the text in quotes, if it is a text"),
        ("prompt: > dog", (1, 11), "put the text in quotes, if it is a text"),
        # a line without a blank after its key is joined with the one below
        ("root:/x\nmodel: y", (2, 6), "line 1 lacks a blank after `root:`"),
        ("a: 1\nb:2\nc: 3", (3, 1), "line 2 lacks a blank after `b:`"),
        ("datasets:\n  - id:demo\n    source: x", (3, 11), "line 2 lacks a blank after `id:`"),
        ("- https://x\n  a: b", (2, 4), "else look at the indentation"),
        ("train:\n\u00a0\u00a0seed: 1", (2, 1), "before the key 'seed' is a blank that is no space (U+00A0)"),
        ("[train]\nmax_steps = 5", (2, 1), "keys are written `key: value`, all of them below each other"),
        ("root: x\n---\nmodel: y", (2, 1), "remove the line ---"),
    ],
)
def test_a_text_that_is_no_yaml_is_said_with_the_place_and_a_hint(
    tmp_path: Path, text: str, place: tuple[int, int], hint: str
) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    said = str(caught.value)
    assert said.startswith(f"{path} is not valid YAML: line {place[0]}, column {place[1]}: ") and hint in said
    assert "\n" not in said


def test_a_config_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    def said(path: Path) -> str:
        with pytest.raises(ConfigError) as caught:
            load_config(path)
        return str(caught.value).replace(str(tmp_path), "")

    (tmp_path / "wide.yaml").write_text("root: a", encoding="utf-16")
    (tmp_path / "marked.yaml").write_text("\ufeff" + DEMO.read_text(), encoding="utf-8")
    assert said(tmp_path / "no.yaml") == "there is no config /no.yaml; `sana init SOURCE -o /no.yaml` makes one"
    assert said(tmp_path) == "config  cannot be read: Is a directory; a YAML file is needed"
    assert said(tmp_path / "wide.yaml").startswith("config /wide.yaml is not UTF-8 (invalid start byte at byte 0)")
    assert load_config(tmp_path / "marked.yaml") == load_config(DEMO)
    (tmp_path / "clip.mp4").write_bytes(b"\0\0\0\x18ftypisom\xff")
    (tmp_path / "nul.yaml").write_bytes(b"root: x\nmodel: a\0b\n")
    (tmp_path / "eq.yaml").write_text("root = x\n")
    assert said(tmp_path / "clip.mp4") == "config /clip.mp4 is no text; a YAML file is needed"
    assert "line 2 holds the character U+0000, which no text has" in said(tmp_path / "nul.yaml")
    assert "holds no keys, which are written `key: value`" in said(tmp_path / "eq.yaml")


def test_a_work_dir_in_the_home_folder_is_found_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert load_config(DEMO, ["work_dir=~/work"]).work_dir == "/home/me/work"


def settings(section: type[BaseModel] = Config, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple, Any]]:
    """Yield (path, annotation) of every setting, of each member of a union with its name chosen."""
    for name, field in section.model_fields.items():
        kind, here = field.annotation, (*path, name)
        yield here, kind
        listed = (0,) if str(kind).startswith("tuple") else ()
        for member, one in union_members(kind).items():
            yield from settings(one, (*here, *listed, f"<{member}>"))
        if not union_members(kind):
            for one in (kind, *get_args(kind)):
                if isinstance(one, type) and issubclass(one, BaseModel):
                    yield from settings(one, (*here, *listed))


DEMO_VALUES = load_config(DEMO).model_dump(mode="json", exclude_unset=True)


# what the demo has none of: an entry of a list, or a section, with what it needs
NEEDED: dict[str, Any] = {
    "noise_offset": {"strength": 0.1},
    "rollout": {"max_step_offset": 2},
    "publish": {"to": "hf://owner/name"},
}
ENTRIES: dict[str, dict[str, Any]] = {
    "parameter_groups": {"names": "*", "learning_rate_factor": 2},
    "conditions": {"name": "extend", "probability": 0.5},
    "targets": {"url_env": "ADDRESS"},
    "also": {"kind": "wandb"},
    "videos": {"prompt": next(iter(load_config(DEMO).sample.prompts)), "path": "a.mp4", "frames": 5},
}


def with_value(path: tuple, value: object) -> dict[str, Any]:
    """The demo's values with one of them replaced."""
    raw = copy.deepcopy(DEMO_VALUES)
    if {"masked_loss", "<inpaint_mask>"} & set(path):
        raw["download"]["datasets"][0]["masks"] = {"suffix": ".mask"}
    node: Any = raw
    for part in path[:-1]:
        if isinstance(part, str) and part.startswith("<"):
            node.clear()
            node["name"] = part.strip("<>")
            if "conditions" in path:
                node["probability"] = 0.5
            if part in ("<cosine>", "<linear>", "<polynomial>"):
                node["warmup_steps"] = 5  # as many as the demo's steps leave room for
            if "crepa" in path and part in ("<linear>", "<cosine>", "<polynomial>"):
                node["decay_steps"] = 9
            if part == "<cubic>":
                node["knots"] = [[0.0, 1.0], [1.0, 0.5]]
            if part == "<sine>":
                node["period_steps"] = 8
        elif isinstance(part, int):
            node = node[part]
        else:
            if not node.get(part):
                node[part] = [dict(ENTRIES[part])] if part in ENTRIES else dict(NEEDED.get(part, {}))
            node = node[part]
    node[path[-1]] = value
    return raw


WRONG: dict[type, list[object]] = {
    int: ["five", [1], {"a": 1}, True, 1.5],
    float: ["five", [1], {"a": 1}, True],
    bool: ["maybe", [True], {"a": 1}, 7],
    str: [5, True, [1], {"a": 1}],
}


def wrong_values(kind: Any) -> list[object]:
    """Values of other types than an annotation has."""
    if str(kind).startswith("tuple"):
        return ["a", 5, {"a": 1}, True] + ([] if type(None) in get_args(kind) else [None])
    kinds = {kind, *get_args(kind)}
    if any(isinstance(one, type) and issubclass(one, BaseModel) for one in kinds):
        return ["a", 5, [1], True] + ([] if type(None) in kinds else [None])
    if str(kind).startswith("dict"):
        return ["a", 5, [1], True, None]
    found = next((values for one, values in WRONG.items() if one in kinds), ["no such", 5, [1], {"a": 1}])
    return found + ([] if type(None) in kinds else [None])


@pytest.mark.parametrize("section", list(Config.model_fields))
def test_a_value_of_another_type_is_one_line_for_every_setting(section: str) -> None:
    tried = 0
    for path, kind in settings():
        if path[0] != section or (path[-1] == "name" and any(str(part).startswith("<") for part in path)):
            continue
        for value in wrong_values(kind):
            key = ".".join(str(part) for part in path if not str(part).startswith("<"))
            with pytest.raises(ConfigError) as caught:
                check(with_value(path, value), where="x")
            first, *rest = str(caught.value).splitlines()
            assert first == "x: 1 mistake" and len(rest) == 1, f"{key}={value!r}: {caught.value}"
            assert rest[0].startswith(f"  {key}"), f"{key}={value!r}: {rest}"
            assert not re.search(PYDANTIC, rest[0].removeprefix(f"  {key}")), rest
            tried += 1
    assert tried


def test_no_number_is_too_large_for_what_uses_it() -> None:
    """Numbers end up in 64-bit columns, in JSON and in memory: each setting has a bound, and one line says it."""
    for path, kind in settings():
        kinds = {kind, *get_args(kind)}
        if not kinds & {int, float}:
            continue
        for value in [float("inf"), float("nan"), *([10**20 + 1] if int in kinds else [])]:
            with pytest.raises(ConfigError) as caught:
                check(with_value(path, value), where="x")
            first, *rest = str(caught.value).splitlines()
            assert first == "x: 1 mistake" and len(rest) == 1, f"{path}={value}: {caught.value}"


def test_every_other_name_leads_to_a_key_of_today_and_is_none_itself() -> None:
    today = dotted()
    for name, keys in OTHER_NAMES.items():
        for key in keys:
            assert key.replace(".0.", ".*.") in today, name
            beside = key.rpartition(".")[0].replace(".0", ".*")
            assert key.endswith(f".{name}") or f"{beside}.{name}" not in today, name


def test_every_pattern_has_words() -> None:
    def patterns(section: type[BaseModel]) -> set[str]:
        found = set()
        for field in section.model_fields.values():
            found |= {item.pattern for item in field.metadata if getattr(item, "pattern", None)}
        return found

    kinds = {one for _, kind in settings() for one in (kind, *get_args(kind)) if isinstance(one, type)}
    sections = {kind for kind in kinds if issubclass(kind, BaseModel)}
    assert set().union(*map(patterns, sections)) == set(PATTERNS)


PASSWORDS = {  # override: where the password belongs; "": there is none in it
    "tracking.uri=http://ann:sEcReT@host:5000": "MLFLOW_TRACKING_PASSWORD",
    "tracking.uri=https://sEcReT@host": "MLFLOW_TRACKING_PASSWORD",
    "tracking.uri=postgresql://ann:sEcReT@host/db": "MLFLOW_TRACKING_URI",
    "tracking.uri='postgresql://host/db?user=ann&password=sEcReT'": "MLFLOW_TRACKING_URI",
    "root=s3://key:sEcReT@bucket/x": "AWS_SECRET_ACCESS_KEY",
    "download.datasets.0.source=s3://key:sEcReT@bucket/x": "AWS_SECRET_ACCESS_KEY",
    "model.path=https://ann:sEcReT@hub/x": "HF_TOKEN",
    "train.init_from=s3://key:sEcReT@bucket/x": "AWS_SECRET_ACCESS_KEY",
    "work_dir=ftp://ann:sEcReT@host": "HF_TOKEN",
    "tracking.uri=postgresql://ann@host/db": "",
    "tracking.uri=sqlite:////a/b@c.db": "",
    "root=s3://bucket/a@b": "",
    "sample.prompts.mail='write to ann:x@host'": "",
}


@pytest.mark.parametrize("override", PASSWORDS)
def test_a_password_in_an_address_is_refused_and_not_shown(override: str) -> None:
    if not PASSWORDS[override]:
        load_config(DEMO, [override])
        return
    [said] = lines(override)
    assert (
        said.startswith(f"{override.partition('=')[0]}: the address holds a password") and PASSWORDS[override] in said
    )
    assert "sEcReT" not in said
