"""The questions of `sana init`, each skipped where a flag or -s has the answer."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from flows.doctor.places import check_root, disk_of
from flows.doctor.subject import Subject
from flows.wizard.asking import Asker
from flows.wizard.flags import Flags
from flows.wizard.look import Hardware, Model, Training, look_at_training, measured_here
from sana.config.places import at_home
from sana.data.sources.hub import REPO_ID
from sana.errors import ConfigError
from sana.pipeline.check import Checked
from sana.pipeline.starting.fitting import Fit, Method, recommended
from sana.pipeline.starting.found import first_caption
from sana.pipeline.starting.starter import NICKNAMES, Starter
from sana.pipeline.starting.trial import SAMPLES
from sana.stages.bodies.trainable_here import largest_bucket
from sana.wording import in_units

VALIDATIONS = 4  # videos of the prompts while it trains, on a GPU
TINY = "`sana make-tiny-model tiny` makes one for a trial; then `tiny` is the answer (--model tiny)"
SMALL = " ".join(f"-s {key}={value}" for key, value in SAMPLES.items())
MOST_ON_CPU = 2_000_000  # pixels of a sample, of all its frames
_BY_NAME, _BY_HASH = "name", "hash"


@dataclass(frozen=True)
class Talk:
    """What the questions share: `model` looks at models, `notes` are said at the end."""

    starter: Starter
    flags: Flags
    asker: Asker
    hardware: Hardware
    model: Model
    notes: list[str] = field(default_factory=list)


def ask_places(talk: Talk) -> None:
    """Ask for root and work_dir. Raises SanaError: what -s or --yes says is wrong."""
    for key, question, check, flag, why in (
        ("root", "Where do results go? A folder, or s3://bucket/prefix", wrong_root, "--root",
         "artifacts: a folder, or s3://bucket/prefix"),
        ("work_dir", "Where do logs, caches and databases go? A folder on a local disk", wrong_folder, "--work-dir",
         "logs, caches and databases: on a local disk"),
    ):  # fmt: skip
        now = str(getattr(talk.starter.config, key))
        if key in talk.starter.given:
            if wrong := check(now):
                raise ConfigError(f"{flag}: {wrong}")
            continue
        talk.starter.choose({key: talk.asker.text(question, now, check, flag=flag)}, why=why)


def ask_model(talk: Talk) -> None:
    """Ask for the model. Raises ConfigError: what a flag says is wrong."""
    starter = talk.starter
    if "model.path" in starter.given:
        if wrong := _wrong_model(starter.config.model.path, talk):
            raise ConfigError(f"--model: {wrong}")
        return
    if not talk.hardware.machine.is_gpu:
        talk.asker.say(f"no GPU here: a tiny model learns on the CPU. {TINY}")
    asked = talk.asker.text(
        "Which model? A Hugging Face id, or a folder in diffusers layout",
        starter.config.model.path,
        lambda answer: _wrong_model(answer, talk),
        flag="--model",
    )
    if asked != starter.config.model.path:
        starter.choose({"model.path": asked})


def _wrong_model(path: str, talk: Talk) -> str:
    """Say what is wrong with a model; one on the hub that is not reached is a note."""
    if not path:
        return "a model is needed"
    error = talk.model.trouble(path)
    if not error:
        return ""
    if not REPO_ID.fullmatch(path) or at_home(path).exists():
        return f"{error}; `sana make-tiny-model OUT` makes a tiny model for a trial"
    talk.notes.append(f"model.path {path} could not be looked at: {error}")
    return ""


def ask_method(talk: Talk) -> tuple[Training | None, Fit | None]:
    """Choose full or LoRA, with the settings that make it fit; returns what was counted, and what is chosen."""
    starter, memory = talk.starter, in_units(talk.hardware.device_bytes)
    if any(key.startswith("train.method") for key in starter.given):
        return None, None
    training = look_at_training(starter, talk.hardware, talk.model)
    best: Method = recommended(training.full, training.lora).method if training else "full"
    method = talk.flags.method or talk.asker.choose("What learns?", _choices(training, memory), best, flag="--method")
    if training is None:
        starter.choose({"train.method.name": method}, why="full: all weights; lora: an adapter of a few MB")
        return None, None
    chosen = training.lora if method == "lora" else training.full
    why = f"counted: {in_units(chosen.peak_bytes)} of {memory}{'' if chosen.fits else ', which does not fit'}"
    starter.choose({"train.method.name": method}, why=f"full or lora; {why}")
    if not chosen.fits:
        tiny = "" if talk.hardware.machine.is_gpu else f". Without a GPU: {TINY}"
        talk.notes.append(
            f"train.method {method} needs {in_units(chosen.peak_bytes)} by counting, of {memory} that there are, and "
            f"does not fit: use smaller buckets, or a device with more memory{tiny}"
        )
    if chosen.fits and not talk.hardware.machine.is_gpu:
        bucket = largest_bucket(starter.config)
        if bucket.num_frames * bucket.height * bucket.width > MOST_ON_CPU:
            talk.notes.append(
                f"on a CPU samples of {bucket} take hours; for a trial of minutes begin again with {SMALL}"
            )
    rest = {key: value for key, value in chosen.settings.items() if key not in starter.given}
    starter.choose(rest, why="usual for an adapter" if method == "lora" else "so that it fits")
    return training, chosen


def _choices(training: Training | None, memory: str) -> list[tuple[str, str]]:
    said = {"full": "full: all weights of the transformer", "lora": "LoRA: a small adapter beside it"}
    if training is None:
        return list(said.items())
    return [
        (
            one.method,
            f"{said[one.method]} (needs {in_units(one.peak_bytes)} of {memory}{'' if one.fits else ': does not fit'})",
        )
        for one in (training.full, training.lora)
    ]


def use_machine(talk: Talk) -> None:
    """Use all GPUs, and what was measured here, as far as the rest of the config allows."""
    starter, num = talk.starter, len(talk.hardware.gpus)
    wishes: list[tuple[Mapping[str, Any], str]] = []
    if num > 1:
        batch = max(num, starter.config.train.global_batch_size // num * num)
        wishes.append(({"train.resources.num_processes": num, "train.global_batch_size": batch}, f"of {num} GPUs"))
        wishes.append(({"encode_latents.resources.num_workers": num}, f"of {num} GPUs"))
    wishes.append((measured_here(starter.config, talk.model), "measured by sana calibrate"))
    if talk.hardware.machine.is_gpu:
        every = max(1, starter.config.train.max_steps // VALIDATIONS)
        wishes.append(({"train.validation.every": every}, "videos of the prompts below, while it trains"))
    for settings, why in wishes:
        mine = {key: value for key, value in settings.items() if key not in starter.given}
        try:
            starter.choose(mine, why=why)
        except ConfigError:  # of offload, which takes one rank; of a micro batch that the batch is no multiple of
            continue


def ask_holdout(talk: Talk, checked: Checked) -> None:
    """Choose what the eval loss is measured on."""
    starter, flags = talk.starter, talk.flags
    if {"bucket.holdout", "bucket.eval_fraction"} & starter.given:
        return
    fraction = flags.eval_fraction if flags.eval_fraction is not None else starter.config.bucket.eval_fraction
    names = flags.holdout
    if names and (wrong := _wrong_names(names, talk, checked)):
        raise ConfigError(f"--holdout: {wrong}")
    if not names and flags.eval_fraction is None:
        how = talk.asker.choose(
            "What is held out, to measure what was learned?",
            [(_BY_HASH, f"{fraction:.0%} of the sources, chosen by hash"), (_BY_NAME, "files or sources that I name")],
            _BY_HASH,
            flag="--holdout or --eval-fraction",
        )
        names = _ask_names(talk, checked) if how == _BY_NAME else ()
    if names:
        starter.choose({"bucket.eval_fraction": 0.0, "bucket.holdout": names}, why="held out by name, none by hash")
    else:
        starter.choose({"bucket.eval_fraction": fraction}, why="of the sources, by hash: adding clips moves none")


def _ask_names(talk: Talk, checked: Checked) -> tuple[str, ...]:
    paths = checked.listed.clips["path"].slice(0, 3).to_pylist() if checked.listed else []
    question = f"Names or globs, with commas between (such as {', '.join(paths)})"
    return _split(
        talk.asker.text(question, "", lambda text: _wrong_names(_split(text), talk, checked), flag="--holdout")
    )


def _wrong_names(names: tuple[str, ...], talk: Talk, checked: Checked) -> str:
    if not names:
        return "a name is needed"
    if is_sample(checked):  # it may well be among the others
        return ""
    try:
        config = talk.starter.tried({"bucket.eval_fraction": 0.0, "bucket.holdout": names})
    except ConfigError as error:
        return str(error)
    return next((line for line in checked.with_config(config).stopped if line.startswith("bucket.holdout")), "")


def ask_prompts(talk: Talk, checked: Checked) -> None:
    """Choose the prompts of sampled videos."""
    starter, asker = talk.starter, talk.asker
    if any(key.startswith("sample.prompts") or key == "sample.prompt_library" for key in starter.given):
        return
    prompts = list(talk.flags.prompts)
    if not prompts:
        proposed = starter.config.sample.prompts.get(NICKNAMES[0]) or first_caption(checked)
        question = "A prompt, of which videos are made to see what is learned"
        prompts.append(asker.text(question, proposed, not_empty, flag="--prompt"))
        while len(prompts) < len(NICKNAMES):
            more = asker.text("Another prompt (empty: enough)", "", lambda _: "", flag="--prompt")
            if not more:
                break
            prompts.append(more)
    names = (*NICKNAMES, *(f"prompt-{number}" for number in range(len(NICKNAMES) + 1, len(prompts) + 1)))
    starter.choose({"sample.prompts": dict(zip(names, prompts, strict=False))})


def ask_tracking(talk: Talk) -> None:
    """Ask for the MLflow experiment, and for the name that its runs have."""
    for key, question, given, flag, why in (
        ("experiment", "MLflow experiment", talk.flags.experiment, "--experiment", "where runs are listed together"),
        (
            "run_name",
            "Name of its runs in MLflow (words in {} are filled in)",
            talk.flags.name,
            "--name",
            "{config} {method} {dataset} {date} {time} are filled in",
        ),
    ):
        setting = f"tracking.{key}"
        if setting in talk.starter.given:
            continue
        if given is not None and (wrong := _wrong_value(setting, given, talk)):
            raise ConfigError(f"{flag}: {wrong}")
        proposed = str(getattr(talk.starter.config.tracking, key))
        check = partial(_wrong_value, setting, talk=talk)
        answer = given if given is not None else talk.asker.text(question, proposed, check, flag=flag)
        talk.starter.choose({setting: answer}, why=why)


def _wrong_value(setting: str, answer: str, talk: Talk) -> str:
    """Say what is wrong with the value of a setting, as the config's own check does."""
    try:
        talk.starter.tried({setting: answer})
    except ConfigError as error:
        return " ".join(line.strip() for line in str(error).splitlines()[1:])
    return ""


def is_sample(checked: Checked) -> bool:
    """Whether not all clips were looked at."""
    [dataset] = checked.config.download.datasets
    return checked.factor(dataset.id) > 1


def _split(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def not_empty(answer: str) -> str:
    """Say that an answer is needed, where there is none."""
    return "" if answer.strip() else "an answer is needed"


def wrong_source(source: str) -> str:
    """Say at once that a local source is not there; all else is said by the look at it."""
    if not source.strip():
        return "a place is needed"
    there = "://" in source or at_home(source).exists()
    return "" if there else f"{source} is not there; name a folder with videos, a table or an archive"


def wrong_root(root: str) -> str:
    """Say why a root cannot be used; "" if it can. A bucket is asked."""
    if not root.strip():
        return "a folder or s3://bucket/prefix is needed"
    if "://" not in root:
        return wrong_folder(root)
    found = check_root(Subject(None, root))
    return f"{found.found}: {found.remedy}" if found.verdict == "fail" else ""


def wrong_folder(path: str) -> str:
    """Say why a folder cannot be made or written; "" if it can."""
    if not path.strip():
        return "a folder is needed"
    disk = disk_of(Path(path))
    if not disk.is_folder:
        return f"{path} is a file, or would be in one"
    return "" if disk.can_write else f"{path} cannot be written by this user"
