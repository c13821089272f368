"""A config to begin with, made from what a check found in one source: short, valid, each value with its reason."""

import copy
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import pyarrow.compute as pc

from sana.arrow import value_counts
from sana.config.load import check, from_values
from sana.config.pipeline import Config
from sana.config.yaml_reading import parse_yaml
from sana.convert.yaml_text import one_line, scalar
from sana.data.rejections import fraction_of, is_too_many
from sana.data.schemas import Reason
from sana.data.sources.listing import ARCHIVE_SUFFIXES, TABLE_SUFFIXES
from sana.errors import SanaError
from sana.pipeline.advice import advice
from sana.pipeline.check import Checked
from sana.pipeline.remedies import changes_for, facts_of
from sana.pipeline.starting.found import first_caption, num_held_out, of_all
from sana.wording import counted

MODEL = "Efficient-Large-Model/SANA-Video_2B_480p_diffusers"
LEAST_HELD_OUT, MOST_HELD_OUT = 4, 0.2  # sources, and part of them
_FRACTIONS = (0.15, 0.1, 0.07, 0.05, 0.03, 0.02)  # that are tried where the hash holds out too many
BATCH, STEPS, EPOCHS = 8, 2000, 100  # at most
NICKNAMES = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")  # of prompts
_WIDTH = 120  # of comments that wrap
_CAPTION_CHARS = 300  # of the prompt that is taken from the captions
_FILE_ENDINGS = (*TABLE_SUFFIXES, *ARCHIVE_SUFFIXES)  # of a source that is a file
_SETS: dict[str, tuple[str, ...]] = {  # rules that are changed for a reason itself; a change may bring others along
    Reason.TOO_SHORT: ("num_frames", "min_frames"),
    Reason.TOO_SMALL: ("table", "resolution", "allow_upscale"),
    Reason.ASPECT: ("max_aspect_ratio",),
}
_WHY = {
    "root": "artifacts: a folder, or s3://bucket/prefix",
    "model.path": "18 GB, fetched by the first run",
    "download.datasets.0.id": "part of every clip_id: renaming it makes new clips",
    "train.max_steps": "raise it later: the run resumes from its newest checkpoint",
    "train.global_batch_size": "samples of an optimizer step",
}


class Starter:
    """The values of a config for one source, which grow with what is found in it."""

    def __init__(self, source: str, overrides: Sequence[str]) -> None:
        dataset = {"id": dataset_id(source), "source": source}
        self._values: dict[str, Any] = {
            "root": ".sana/store",
            "model": {"path": MODEL},
            "download": {"datasets": [dataset]},
            "train": {"max_steps": STEPS, "global_batch_size": BATCH},
            "sample": {"prompts": {NICKNAMES[0]: "a prompt, written the way your captions are written"}},
        }
        self._why = dict(_WHY)
        of_id = f"download.datasets.{dataset['id']}."
        keys = (override.partition("=")[0].strip() for override in overrides)
        self.given = {
            re.sub(rf"^{re.escape(of_id)}", "download.datasets.0.", key) for key in keys
        }  # not ours to change
        self.config = from_values(self._values, overrides, where=f"a config for {source}")
        if self.config.model.path != MODEL:
            del self._why["model.path"]

    def improve(self, checked: Checked) -> Checked:
        """Change what would stop a run or could not work well; returns what comes of the same clips then."""
        if checked.listed is None:
            return checked
        for reason in (Reason.ASPECT, Reason.TOO_SMALL, Reason.TOO_SHORT, Reason.TOO_SMALL):
            checked = self._loosen(checked, reason)
        return self._sized(self._allow_rejects(checked))

    def _sized(self, checked: Checked) -> Checked:
        """Choose batch, steps, prompt and intervals for as many samples as there are."""
        assert checked.listed is not None and checked.assigned is not None
        factor = checked.factor(checked.config.download.datasets[0].id)
        facts = of_all(checked.assigned.facts, factor)
        samples = sum(of.train for of in facts.buckets.values())
        if not samples:
            return checked
        held_out = min(MOST_HELD_OUT, round(LEAST_HELD_OUT / facts.sources, 2)) if facts.sources else 0.0
        if held_out > checked.config.bucket.eval_fraction and not checked.config.bucket.holdout:
            why = "of the sources, by hash; of so few more than usual, so that the eval loss is of some"
            checked = self._set(checked, {"bucket.eval_fraction": held_out}, why=why)
        checked = self._hold_out_fewer(checked)
        batch = min(BATCH, samples)
        steps = max(1, min(STEPS, EPOCHS * samples // batch))
        checked = self._set(checked, {"train.global_batch_size": batch, "train.max_steps": steps})
        prompt = " ".join(first_caption(checked).split())[:_CAPTION_CHARS]
        key = f"sample.prompts.{NICKNAMES[0]}"
        if not any(name.startswith("sample.prompts") for name in self.given):
            checked = self._set(checked, {key: prompt}, why="the caption of the first clip that is used")
        for one in advice(checked.config, of_all(checked.assigned.facts, factor) if checked.assigned else None):
            if one.key:
                checked = self._set(checked, {one.key: one.value}, why=one.text.partition(":")[0].rstrip(";"))
        return checked

    def _hold_out_fewer(self, checked: Checked) -> Checked:
        """Lower the fraction where the hash holds out far more of few sources than it says: most are to train."""
        is_sample = checked.factor(checked.config.download.datasets[0].id) > 1  # of which a part says little
        if is_sample or {"bucket.eval_fraction", "bucket.holdout"} & self.given or checked.config.bucket.holdout:
            return checked
        for fraction in _FRACTIONS:
            num_eval, num = num_held_out(checked)
            if fraction >= checked.config.bucket.eval_fraction or num_eval <= MOST_HELD_OUT * num + 1:
                continue
            if not num_held_out(checked.with_config(self.tried({"bucket.eval_fraction": fraction})))[0]:
                break
            why = f"of the sources, by hash, which held out {num_eval} of {counted(num, 'sample')} with more"
            checked = self._set(checked, {"bucket.eval_fraction": fraction}, why=why)
        return checked

    def steps_in_words(self, checked: Checked) -> str:
        """Return what train.max_steps comes from, or amounts to: epochs x samples / batch; "" without samples."""
        if checked.listed is None or checked.assigned is None:
            return ""
        factor = checked.factor(self.config.download.datasets[0].id)
        samples = sum(of.train for of in of_all(checked.assigned.facts, factor).buckets.values())
        if not samples:
            return ""
        batch, steps = self.config.train.global_batch_size, self.config.train.max_steps
        epochs = float(EPOCHS) if steps == max(1, EPOCHS * samples // batch) else steps * batch / samples
        about = "about " if factor > 1 else ""
        most = f", {STEPS} steps at most" if steps == STEPS and "train.max_steps" not in self.given else ""
        return f"{epochs:.3g} epochs x {about}{counted(samples, 'sample')} / batch {batch}{most}"

    def _loosen(self, checked: Checked, reason: str) -> Checked:
        """Change the bucket rules where too many clips are rejected for a reason that a rule has."""
        assert checked.listed is not None
        dataset = checked.config.download.datasets[0]
        rejects = checked.rejects.filter(pc.equal(checked.rejects["reason"], reason))
        facts = facts_of(rejects, checked.listed.probed)
        if facts.num_rows <= dataset.max_rejected_fraction * checked.listed.to_bucket.num_rows:
            return checked
        rules = checked.config.rules_of(dataset)
        changes = changes_for(reason, rules, facts)
        if not changes:
            return checked
        num, of = facts.num_rows, checked.listed.to_bucket.num_rows
        settings = changes[0].settings
        for key in settings:
            mine = key in _SETS.get(reason, ())
            self._why[f"bucket.{key}"] = f"else {num} of {of} clips are {reason}" if mine else "for their sizes"
        return self._set(checked, {f"bucket.{key}": value for key, value in settings.items()})

    def _allow_rejects(self, checked: Checked) -> Checked:
        """Raise the limit to what is rejected all the same, so that a run goes on without those."""
        assert checked.listed is not None and checked.assigned is not None
        dataset = checked.config.download.datasets[0]
        counts = [*checked.listed.counts.values(), checked.assigned.counts]
        mine = [of.datasets[dataset.id] for of in counts if dataset.id in of.datasets and of.num_in]
        above = [fraction_of(of) for of in mine if is_too_many(of, dataset.max_rejected_fraction)]
        if not above or max(above) >= 1:
            return checked
        top = ", ".join(f"{num} {reason}" for reason, num in value_counts(checked.rejects["reason"]).items())
        key = "download.datasets.0.max_rejected_fraction"
        why = f"{top}: mend the files that are named above, and remove this"
        return self._set(checked, {key: max(above)}, why=why)

    def _set(self, checked: Checked, settings: dict[str, Any], *, why: str = "") -> Checked:
        mine = {key: value for key, value in settings.items() if key not in self.given}
        _put(self._values, mine)
        self._why |= dict.fromkeys(mine, why) if why else {}
        self.config = self._checked(self._values)
        return checked.with_config(self.config)

    def choose(self, settings: Mapping[str, Any], *, why: str = "") -> None:
        """Set values by dotted key for good: what is found later does not change them.

        Raises:
            ConfigError: the config with them is not valid; it stays as it was.
        """
        self.config = self.tried(settings)
        _put(self._values, settings)
        self.given |= set(settings)
        for key in settings:
            self._why.pop(key, None)
        self._why |= dict.fromkeys(settings, why) if why else {}

    def tried(self, settings: Mapping[str, Any]) -> Config:
        """Return the config with other values by dotted key. Raises ConfigError: it is not valid."""
        values = copy.deepcopy(self._values)
        _put(values, settings)
        return self._checked(values)

    @staticmethod
    def _checked(values: dict[str, Any]) -> Config:
        return from_values(copy.deepcopy(values), (), where="the config to begin with")

    def text(self, checked: Checked, head: Sequence[str] = ()) -> str:
        """Return the config as YAML, with the lines of `head` as comments at its top, and reasons beside values.

        Raises:
            SanaError: what is written would not be read back as what is meant.
        """
        found = ""
        if checked.listed is not None and checked.assigned is not None:
            looked_at = sum(of.num_in for of in checked.listed.counts["download"].datasets.values())
            used, samples = checked.assigned.counts.num_out, checked.assigned.counts.num_samples or 0
            all_videos = sum(checked.num_videos.values())
            of_all_videos = f" (a sample of {all_videos:,} videos)" if all_videos > looked_at else ""
            found = f"{used} of {looked_at} clips{of_all_videos} give {samples} samples. "
        last = f"# {found}All settings, with their reasons: configs/sana_video_480p.yaml"
        if words := self.steps_in_words(checked):
            self._why["train.max_steps"] = f"{words}; {_WHY['train.max_steps']}"
        values = _in_order(self._values, Config)
        text = "\n".join([*_comments(head), last, *self._lines(values, "", "")]) + "\n"
        if check(parse_yaml(text, where="the config to begin with"), where="the config to begin with") != self.config:
            raise SanaError(
                "the config to begin with is not read back as it is meant; write one by hand, from examples/"
            )
        return text

    def _lines(self, node: dict[str, Any], path: str, pad: str) -> Iterator[str]:
        for name, value in node.items():
            key = f"{path}{name}"
            if isinstance(value, dict):
                yield f"{pad}{scalar(name)}:"
                yield from self._lines(value, f"{key}.", f"{pad}  ")
            elif isinstance(value, list) and value and isinstance(value[0], dict):
                yield f"{pad}{name}:"
                for place, item in enumerate(value):
                    first, *rest = self._lines(item, f"{key}.{place}.", f"{pad}    ")
                    yield f"{pad}  - {first.lstrip()}"
                    yield from rest
            else:
                text = f"{pad}{scalar(name)}: {'null' if value is None else scalar(value)}"
                yield text + (f" # {one_line(self._why[key])}" if key in self._why else "")


def _put(values: dict[str, Any], settings: Mapping[str, Any]) -> None:
    """Set values by dotted key, where a number is a place in a list."""
    for key, value in settings.items():
        *parents, last = key.split(".")
        node: Any = values
        for part in parents:
            node = node[int(part)] if isinstance(node, list) else node.setdefault(part, {})
        node[last] = list(value) if isinstance(value, tuple) else value


def _in_order(values: Mapping[str, Any], section: Any) -> dict[str, Any]:
    """Return the values of a section, and of those below it, in the order of its fields."""
    names = [name for name in section.model_fields if name in values]
    ordered = {name: values[name] for name in [*names, *(name for name in values if name not in names)]}
    kinds = {name: section.model_fields[name].annotation for name in names}
    return {
        name: _in_order(value, kinds[name])
        if isinstance(value, dict) and hasattr(kinds.get(name), "model_fields")
        else value
        for name, value in ordered.items()
    }


def _comments(lines: Sequence[str]) -> Iterator[str]:
    for line in lines:
        pad = " " * (len(line) - len(line.lstrip()))
        wrapped = textwrap.wrap(
            one_line(line.strip()), _WIDTH - len(pad) - 2, subsequent_indent="  ", break_on_hyphens=False,
            break_long_words=False,
        )  # fmt: skip
        yield from (f"# {pad}{part}" for part in wrapped)


def dataset_id(source: str) -> str:
    """Return a short name for a source, as a data set's id has to be."""
    name = PurePosixPath(source.rstrip("/")).name or "clips"
    ending = max((end for end in _FILE_ENDINGS if name.lower().endswith(end)), key=len, default="")
    name = name[: len(name) - len(ending)]
    text = re.sub(r"[^a-z0-9._-]+", "-", name.lower().partition("?")[0]).strip("-._")
    return text[:64] or "clips"
