"""A config to begin with, made from what a check found in one source: short, valid, each value with its reason."""

import copy
import re
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

import pyarrow.compute as pc

from sana.arrow import value_counts
from sana.config.load import from_values
from sana.config.pipeline import Config
from sana.convert.yaml_text import scalar
from sana.data.rejections import fraction_of, is_too_many
from sana.data.schemas import Reason
from sana.data.sources.listing import ARCHIVE_SUFFIXES, TABLE_SUFFIXES
from sana.pipeline.advice import advice
from sana.pipeline.check import Checked
from sana.pipeline.remedies import changes_for, facts_of

MODEL = "Efficient-Large-Model/SANA-Video_2B_480p_diffusers"
BATCH, STEPS, EPOCHS = 8, 2000, 100  # at most
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
            "sample": {"prompts": {"first": "a prompt, written the way your captions are written"}},
        }
        self._why = dict(_WHY)
        self._given = {override.partition("=")[0].strip() for override in overrides}  # not ours to change
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
        samples = sum(of.train for of in checked.assigned.facts.buckets.values())
        if not samples:
            return checked
        batch = min(BATCH, samples)
        steps = max(1, min(STEPS, EPOCHS * samples // batch))
        checked = self._set(checked, {"train.global_batch_size": batch, "train.max_steps": steps})
        prompt = " ".join(first_caption(checked).split())[:_CAPTION_CHARS]
        checked = self._set(checked, {"sample.prompts.first": prompt}, why="the caption of the first clip")
        for one in advice(checked.config, checked.assigned.facts if checked.assigned else None):
            if one.key:
                checked = self._set(checked, {one.key: one.value}, why=one.text.partition(":")[0].rstrip(";"))
        return checked

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
        for key, value in settings.items():
            if key in self._given:
                continue
            *parents, last = key.split(".")
            node: Any = self._values
            for part in parents:
                node = node[int(part)] if isinstance(node, list) else node.setdefault(part, {})
            node[last] = list(value) if isinstance(value, tuple) else value
            if why:
                self._why[key] = why
        self.config = from_values(copy.deepcopy(self._values), (), where="the config to begin with")
        return checked.with_config(self.config)

    def text(self, checked: Checked) -> str:
        """Return the config as YAML."""
        counted = ""
        if checked.listed is not None and checked.assigned is not None:
            found = sum(of.num_in for of in checked.listed.counts["download"].datasets.values())
            used, samples = checked.assigned.counts.num_out, checked.assigned.counts.num_samples or 0
            counted = f"{used} of {found} clips give {samples} samples. "
        head = f"# {counted}All settings, with their reasons: configs/sana_video_480p.yaml"
        values = {name: self._values[name] for name in Config.model_fields if name in self._values}
        return "\n".join([head, *self._lines(values, "", "")]) + "\n"

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
                yield text + (f" # {self._why[key]}" if key in self._why else "")


def dataset_id(source: str) -> str:
    """Return a short name for a source, as a data set's id has to be."""
    name = PurePosixPath(source.rstrip("/")).name or "clips"
    ending = max((end for end in _FILE_ENDINGS if name.lower().endswith(end)), key=len, default="")
    name = name[: len(name) - len(ending)]
    text = re.sub(r"[^a-z0-9._-]+", "-", name.lower().partition("?")[0]).strip("-._")
    return text[:64] or "clips"


def first_caption(checked: Checked) -> str:
    """Return a caption of the first clip by path."""
    assert checked.listed is not None
    order = pc.sort_indices(checked.listed.clips["path"])
    captions: list[str] = checked.listed.captions["captions"][order[0].as_py()].as_py()
    return captions[0]
