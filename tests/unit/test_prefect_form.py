"""The form of a deployment: choices and descriptions, names of runs, and errors in its words, each told once."""

import inspect
import logging
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from prefect import Flow
from prefect._internal.pydantic.validated_func import ValidatedFunction
from prefect.settings import PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW, temporary_settings
from prefect.types import DateTime
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import is_valid_schema, validate

from flows import form
from flows.encode_worker import encode_worker
from flows.evaluate import evaluate
from flows.pipeline import sana_pipeline
from flows.prepare import prepare
from flows.sample import sample
from flows.train import train
from flows.validation import validation
from sana.errors import ConfigError, SanaError
from sana.pipeline.graph import STAGES
from tasks.form_terms import as_form, as_the_form_says, in_form_terms
from tasks.run_log import tell_errors_once

FLOWS = (sana_pipeline, prepare, train, evaluate, sample, validation, encode_worker)


def fields(flow: Flow[..., Any]) -> dict[str, dict[str, Any]]:
    return parameter_schema(flow).model_dump()["properties"]


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
def test_each_parameter_is_one_described_field(flow: Flow[..., Any]) -> None:
    assert list(fields(flow)) == list(inspect.signature(flow.fn).parameters)
    for name, field in fields(flow).items():
        assert field["description"].endswith(".") and "\n" not in field["description"], name
        assert isinstance(field["type"], str) and "anyOf" not in field, f"{name}: a menu of types, not a field"
    untouched = {name: field["default"] for name, field in fields(flow).items()}  # what the form sends
    assert validate(untouched, parameter_schema(flow).model_dump(), raise_on_error=False, preprocess=True) == []
    is_valid_schema(parameter_schema(flow).model_dump())


def test_stages_are_choices() -> None:
    until = {flow.name: fields(flow)["until"]["enum"] for flow in (sana_pipeline, prepare, train)}
    assert until["sana-video"] == ["all", *STAGES]
    assert until["sana-prepare"][-1] == "encode_latents" and until["sana-train"][0] == "train"
    assert set(until["sana-prepare"] + ["check_base"] + until["sana-train"]) == set(STAGES)
    assert fields(prepare)["until"]["default"] == "encode_latents" and fields(train)["until"]["default"] == "train"
    assert fields(train)["force"]["items"]["enum"] == list(STAGES)


@pytest.mark.parametrize(
    ("given", "is_taken"),
    [
        ({}, True),
        ({"until": "train", "force": ["probe", "train"], "overrides": ["a=1"], "root": "s3://a/b"}, True),
        ({"until": "all", "force": [], "overrides": [], "root": ""}, True),  # what an untouched form sends
        ({"until": "trian"}, False),
        ({"force": ["trian"]}, False),
        ({"force": "train"}, False),
    ],
)
def test_server_and_flow_take_the_same_values(given: dict[str, Any], is_taken: bool) -> None:
    schema = parameter_schema(sana_pipeline).model_dump()
    errors = validate(given, schema, raise_on_error=False, preprocess=True)
    assert (errors == []) == is_taken
    try:
        ValidatedFunction(sana_pipeline.fn).validate_call_args((), given)
    except ValueError:
        assert not is_taken
    else:
        assert is_taken


@pytest.mark.parametrize(
    ("flow", "given", "parameters", "name"),
    [
        ("sana-video", "ochre-tapir", {"config": "a/demo.yaml", "until": None}, "demo, 2026-11-28 15:40"),
        ("sana-video", "ochre-tapir", {"config": "demo.yaml", "until": "train"}, "demo until train, 2026-11-28 15:40"),
        (
            "sana-prepare",
            "ochre-tapir",
            {"config": "x.y.yaml", "until": "encode_latents"},
            "x.y prepare, 2026-11-28 15:40",
        ),
        ("sana-prepare", "a-b", {"config": "d.yaml", "until": "probe"}, "d prepare until probe, 2026-11-28 15:40"),
        ("sana-train", "a-b", {"config": "d.yaml", "until": "train"}, "d train, 2026-11-28 15:40"),
        ("sana-train", "a-b", {"config": "d.yaml", "until": "sample"}, "d train until sample, 2026-11-28 15:40"),
        ("sana-evaluate", "a-b", {"config": "d.yaml"}, "d evaluate, 2026-11-28 15:40"),
        ("sana-validation", "a-b", {"config": "d.yaml", "step": 0}, "d validation of step 0, 2026-11-28 15:40"),
        (
            "encode-worker",
            "a-b",
            {"config": "d.yaml", "index": 0, "count": 2},
            "d encode-worker 1 of 2, 2026-11-28 15:40",
        ),
        ("sana-video", "alpha6-orelious", {"config": "d", "until": "all"}, "d, 2026-11-28 15:40"),
        ("sana-video", "Rustic-Daniff", {"config": "d"}, "d, 2026-11-28 15:40"),
        ("sana-validation", "a-b", {"config": "d.yaml", "step": -1}, "d validation, 2026-11-28 15:40"),
        ("sana-video", "Anna's second try", {"config": "d.yaml"}, "Anna's second try"),
        ("sana-video", "d, 2026-11-27 03:00", {"config": "d.yaml"}, "d, 2026-11-27 03:00"),  # retried a day later
        ("sana-video", "a-b", {"config": "a\x1b[31m\nb.yaml"}, "a[31mb, 2026-11-28 15:40"),
    ],
)
def test_runs_are_named_by_what_they_do(
    monkeypatch: pytest.MonkeyPatch, flow: str, given: str, parameters: dict[str, Any], name: str
) -> None:
    due = DateTime(2026, 11, 28, 15, 40, 31)
    run = SimpleNamespace(name=given, flow_name=flow, parameters=parameters, scheduled_start_time=due)
    monkeypatch.setattr(form, "runtime", SimpleNamespace(flow_run=run))
    assert form.run_name() == name


def test_a_long_name_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    due = DateTime(2026, 11, 28, 15, 40, 31)
    run = SimpleNamespace(name="", flow_name="sana-video", parameters={"config": "x" * 250}, scheduled_start_time=due)
    monkeypatch.setattr(form, "runtime", SimpleNamespace(flow_run=run))
    assert len(form.run_name()) < 100


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            "make it again: sana run CONFIG --force train",
            "make it again: run the deployment pipeline with `force` train",
        ),
        ("first: sana run CONFIG --until train", "first: run the deployment pipeline with `until` train"),
        ("then sana run CONFIG; done", "then run the deployment again; done"),
        ("repair it: sana verify CONFIG --invalidate", "repair it: sana verify 'my demo.yaml' --invalidate"),
        ("raise it: -s a.b=0.3 (2 of 6)", "raise it: a.b=0.3 in `overrides` (2 of 6)"),
        ("fits: -s a.b=0.5 -s c.d=2.", "fits: a.b=0.5 and c.d=2 in `overrides`."),
        ("(-s a.b=0.25)", "(a.b=0.25 in `overrides`)"),
        (
            "--force bucket would do nothing: bucket comes after probe, where --until ends the run; leave --until out",
            "`force` bucket would do nothing: bucket comes after probe, where `until` ends the run; leave `until` out",
        ),
        ("no such file: clips -s old/a.mp4", "no such file: clips -s old/a.mp4"),
    ],
)
def test_errors_name_fields_of_the_form(said: str, told: str) -> None:
    assert as_form(said, "my demo.yaml") == told
    assert as_form(told, "my demo.yaml") == told  # a task and its flow may both word it


def test_a_long_error_is_cut_for_prefect() -> None:
    with pytest.raises(ConfigError) as caught, in_form_terms("c.yaml"):
        raise ConfigError(f"override {'x' * 100_000!r}")
    assert len(str(caught.value)) == 4000


def test_only_runs_with_a_form_are_told_of_it() -> None:
    def fail() -> None:
        with as_the_form_says():
            raise ConfigError("first: sana run CONFIG --until train")

    for wanted, told in ((True, "`until` train"), (False, "sana run CONFIG --until train")):
        with pytest.raises(ConfigError) as caught, in_form_terms("c.yaml", wanted=wanted):
            fail()
        assert told in str(caught.value)
    with pytest.raises(ConfigError, match="sana run CONFIG"):
        fail()


@pytest.fixture
def logged() -> Iterator[list[logging.LogRecord]]:
    """What Prefect's loggers of runs have let through."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    loggers = [logging.getLogger(name) for name in ("prefect.task_runs", "prefect.flow_runs")]
    tell_errors_once()
    for logger in loggers:
        logger.addHandler(handler)
    with temporary_settings({PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW: "ignore"}):
        yield records
    for logger in loggers:
        logger.removeHandler(handler)


@pytest.mark.parametrize(("error", "has_traceback"), [(SanaError("no clips"), False), (ValueError("a bug"), True)])
def test_an_error_is_logged_once(logged: list[logging.LogRecord], error: Exception, has_traceback: bool) -> None:
    task, flow = logging.getLogger("prefect.task_runs"), logging.getLogger("prefect.flow_runs")
    try:
        raise error
    except (SanaError, ValueError):
        task.error("Task run failed with exception: %r - Retries are exhausted", error, exc_info=True)
        task.error(f"Finished in state Failed('Task run encountered an exception {error}')")
        flow.exception("Encountered exception during execution: %r", error)
        flow.info(f"Finished in state Failed('Flow run encountered an exception: {error}')")
    task.info("Task run failed with %s: %r - Retry %s/%s will start %s", "exception", error, 1, 2, "soon")
    task.info("Finished in state Cached('/store/probe/0')")
    said = [record.getMessage() for record in logged]
    assert [str(error) in line for line in said] == [True, False, False, False]
    assert said[1:] == [
        "Finished in state Failed",
        "Finished in state Failed",
        "Finished in state Cached('/store/probe/0')",
    ]
    assert bool(logged[0].exc_info) == has_traceback
