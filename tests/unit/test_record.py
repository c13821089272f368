"""Records: what is read back is what was written, bit by bit; anything else is one error that says what to do."""

import importlib
import json
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sana
from sana.artifact import Artifact, Draft, Facts, Recipe, find
from sana.counts import Counts
from sana.errors import SanaError
from sana.facts import TrainFacts
from sana.progress import Progress
from sana.record import DamagedRecordError, Record
from sana.runtime.specs import ModelSource, PoolName, Spec
from sana.store import LocalStore
from tasks.tracking.values import metrics


@dataclass(frozen=True)
class Part(Record):
    size: int
    share: float | None


@dataclass(frozen=True)
class Whole(Record):
    FORMAT: ClassVar[int] = 3
    name: str
    numbers: tuple[float, ...]
    parts: Mapping[str, Part]


floats = st.floats(allow_nan=False, allow_infinity=False)
parts = st.builds(Part, st.integers(-(2**60), 2**60), st.none() | floats)
wholes = st.builds(Whole, st.text(), st.lists(floats).map(tuple), st.dictionaries(st.text(), parts))
WHOLE = Whole("a", (0.1, 2.0), {"b": Part(1, None)})


@given(whole=wholes)
def test_what_is_read_is_what_was_written(whole: Whole) -> None:
    for data in (whole.to_json(), whole.to_json(indent=None, sort_keys=True), whole.to_json(ascii_only=False)):
        assert Whole.from_json(data, where="it") == whole
    assert Whole.from_value(whole.to_value(), where="it") == whole


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"numbers": [0.1, "2"]}, "numbers.1: Input should be a valid number"),
        ({"numbers": None}, "numbers: Input should be a valid"),
        ({"name": ...}, "name: Field required"),
        ({"more": 1}, "more: Unexpected keyword argument"),
        ({"parts": {"b": {"size": 1}}}, "parts.b.share: Field required"),
        ({"parts": {"b": {"size": 1.5, "share": 1}}}, "parts.b.size: Input should be a valid integer"),
        ({"parts": {"b": {"size": True, "share": 1}}}, "parts.b.size: Input should be a valid integer"),
    ],
)
def test_other_fields_and_types_are_named_in_the_error(change: dict, message: str) -> None:
    value = {name: child for name, child in {**WHOLE.to_value(), **change}.items() if child is not ...}
    with pytest.raises(DamagedRecordError, match=f"^the file is damaged: {message}.*; make it again$"):
        Whole.from_json(json.dumps(value), where="the file", repair_hint="make it again")


@pytest.mark.parametrize("data", [b'{"format": 3, ', b"[]", b"\xff", b'{"format": 3, "name": "a"} b'])
def test_what_is_no_record_is_damaged(data: bytes) -> None:
    with pytest.raises(DamagedRecordError, match="^the file is damaged: .*; make it again$"):
        Whole.from_json(data, where="the file", repair_hint="make it again")


@pytest.mark.parametrize("number", [2, "3", None])
def test_another_version_is_not_taken_for_damage(number: object) -> None:
    value = {**WHOLE.to_value(), "format": number}
    with pytest.raises(SanaError, match="another version of this software .*this one reads 3") as caught:
        Whole.from_json(json.dumps(value), where="the file")
    assert not isinstance(caught.value, DamagedRecordError)


def test_no_number_is_written_that_json_does_not_have(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        Whole("a", (float("nan"),), {}).to_json()
    with pytest.raises(SanaError, match="there is no .*; run again"):
        Whole.load(tmp_path / "no.json", repair_hint="run again")


def test_progress_is_one_line_and_checked() -> None:
    progress = Progress(1, 3, "steps", "a\nb", ({"step": 1, "train/loss": 0.1},), worker=2, counts={"x": 1})
    line = progress.to_line()
    assert line.count(b"\n") == 1 and Progress.from_line(line.decode(), where="it") == progress
    with pytest.raises(SanaError, match=r"job.progress.jsonl is damaged: done: .*; run again"):
        Progress.from_line(line.decode().replace('"done": 1', '"done": "1"'), where="job.progress.jsonl")


# ---- facts


@dataclass(frozen=True)
class FilterFacts(Facts):
    """As a stage that is added later has them, in its own module."""

    STAGE: ClassVar[str] = "filter"
    longest: int
    by_length: Mapping[str, Part]
    words: tuple[str, ...]


def test_a_stage_that_is_added_later_has_facts_of_its_own(tmp_path: Path) -> None:
    store, recipe = LocalStore(str(tmp_path)), Recipe("filter", 1, {"a": (1, 2)}, {})
    facts = FilterFacts(7, {"short": Part(2, None), "long": Part(3, 0.5)}, ("x",))
    counts = Counts(5, 3, 2, {"too_long": 2}, {}, num_samples=9, extra={"opened": 4})
    assert str(counts) == "5 in, 3 out, 2 rejected (2 too_long), 9 samples, 4 opened"
    assert str(Counts.all_kept(5, encoded=0, on_time=2)) == "5 in, 5 out, 0 rejected, 2 on time"
    made = Draft(store, recipe).commit(content={}, counts=counts, facts=facts)
    read = find(store, recipe)
    assert read == made and read is not None and FilterFacts.of(read) == facts and TrainFacts.find(read) is None
    numbers = metrics(read)
    assert numbers.pop("seconds") == read.seconds
    assert numbers == {
        "clips_in": 5, "clips_out": 3, "clips_rejected": 2, "clips_rejected.too_long": 2, "samples": 9, "opened": 4,
        "longest": 7, "by_length.short.size": 2, "by_length.long.size": 3, "by_length.long.share": 0.5,
    }  # fmt: skip
    with pytest.raises(ValueError, match="stage train"):
        TrainFacts.of(read)


def test_facts_that_cannot_be_read_name_the_artifact() -> None:
    artifact = Artifact("train", "f00", 1, {}, {}, {}, Counts.all_kept(1), {}, {"format": 1, "step": 3})
    with pytest.raises(
        SanaError, match=r"`facts` of train/f00 is damaged: trajectory: .*sana run CONFIG --force train"
    ):
        TrainFacts.find(artifact)


def test_counts_add_up_when_they_are_read_as_well() -> None:
    artifact = Artifact("probe", "f00", 1, {}, {}, {}, Counts.all_kept(3), {})
    value = artifact.to_value()
    counts = value["counts"]
    assert isinstance(counts, dict)
    with pytest.raises(DamagedRecordError, match="counts: .*disappeared"):
        Artifact.from_value({**value, "counts": {**counts, "num_out": 2}}, where="it")


# ---- specs


def test_a_job_is_read_only_by_the_worker_it_is_for(tmp_path: Path) -> None:
    from sana.config.load import load_config
    from sana.runtime.job import read_job, write_job
    from sana.runtime.specs import EncodeCaptionsSpec, EncodeLatentsSpec

    config = load_config("configs/demo.yaml", [f"work_dir={tmp_path}"])
    spec = EncodeCaptionsSpec(PoolName("encode_captions", "k"), ModelSource("tiny", None))
    path = write_job(config, spec)
    job = read_job(path, EncodeCaptionsSpec)
    assert job.spec == spec and job.config == config
    with pytest.raises(SanaError, match="a job of encode_captions; encode_latents cannot do it"):
        read_job(path, EncodeLatentsSpec)
    path.write_text(path.read_text().replace('"key"', '"name"'))
    with pytest.raises(SanaError, match="`spec` in .* is damaged: pool.key: Field required"):
        read_job(path, EncodeCaptionsSpec)


@pytest.mark.parametrize("scheme", ["http", "https", "postgresql", "mysql+pymysql"])
def test_a_job_has_no_password_of_the_tracking_server(tmp_path: Path, scheme: str) -> None:
    from sana.config.load import load_config
    from sana.runtime.job import read_job, write_job
    from sana.runtime.specs import EncodeCaptionsSpec

    uri = f"{scheme}://reader:s3cret@tracking.example/runs"
    config = load_config("configs/demo.yaml", [f"work_dir={tmp_path}"])
    config = config.model_copy(update={"tracking": config.tracking.model_copy(update={"uri": uri})})
    path = write_job(config, EncodeCaptionsSpec(PoolName("encode_captions", "k"), ModelSource("tiny", None)))
    assert "s3cret" not in path.read_text()
    assert read_job(path, EncodeCaptionsSpec).config.tracking.uri == f"{scheme}://tracking.example/runs"


def test_every_record_is_frozen_and_documented() -> None:
    for module in pkgutil.walk_packages(sana.__path__, "sana."):
        if module.name.startswith(
            (
                "sana.runtime.specs",
                "sana.runtime.command_specs",
                "sana.runtime.results",
                "sana.facts",
                "sana.training.checkpoints.checkpoint",
            )
        ):
            importlib.import_module(module.name)
    found, left = set(), [Record]
    while left:
        found.update(below := [kind for kind in left.pop().__subclasses__() if kind.__module__.startswith("sana.")])
        left += below
    assert len(found) > 30
    for kind in found - {Spec}:
        assert kind.__dataclass_params__.frozen and kind.__doc__ and "(" not in kind.__doc__[: len(kind.__name__) + 1]
        assert not [field.name for field in fields(kind) if field.type in ("Any", dict)]
    workers = [kind.WORKER for kind in found if issubclass(kind, Spec) and "WORKER" in vars(kind)]
    stages = [kind.STAGE for kind in found if issubclass(kind, Facts) and kind is not Facts]
    twice = {"lora"}  # one worker for two commands
    assert len(workers) - len(twice) == len(set(workers)) >= 8 and len(stages) == len(set(stages))
