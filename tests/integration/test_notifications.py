"""Notifications against real servers that hang, refuse and drip: the run never waits; drops are counted and told."""

import json
import logging
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from mlflow.tracking import MlflowClient

from sana.artifact import Artifact, Recipe
from sana.config.delivery.notifications import NotificationsConfig
from sana.config.load import load_config
from sana.config.pipeline import Config
from sana.context import Context
from sana.counts import Counts
from sana.delivery import outbox
from sana.delivery.dispatch import Dispatcher, summary
from sana.delivery.notification import Notification
from sana.delivery.transports import sign
from sana.errors import SanaError
from sana.pipeline.observers import Committed, Observer, Observers, RunStart, StageEnd, StageStart, WorkStart
from sana.progress import CheckpointSaved, PreviewReady, Progress, ValidationDone
from sana.store import open_store
from tasks import notifications as observer
from tasks.flow_run import handed_over, open_run
from tasks.notifications import Notifier
from tasks.tracking.observer import TrackingObserver
from tasks.tracking.tracker import Tracker
from tasks.tracking.values import pipeline_key, tracking_uri
from tests.loopback_servers import free_port, raw_server, receiver, slow_loris, web_server

ROOT = Path(__file__).parents[2]
RUN = {"name": "demo", "config_digest": "0" * 16, "host": "here"}
SECRET_PATH = "/services/sEcReT-tOkEn-0123456789"


def target(**settings: object) -> NotificationsConfig:
    return NotificationsConfig.model_validate({"targets": [{"url_env": "HOOK", **settings}]})


def note(**what: Any) -> Notification:
    return Notification("run", "started", "info", "the run starts", RUN, **what)


@contextmanager
def at(url: str) -> Iterator[str]:
    yield url.format(port=free_port())


@contextmanager
def as_https() -> Iterator[str]:
    with web_server({}) as url:
        yield url.replace("http", "https")


Server = Callable[[], AbstractContextManager[Any]]
FAULTS: dict[str, tuple[Server, str, int]] = {
    # the server; what is told; the tries, 0 where nobody counts them
    "hangs": (lambda: raw_server(None), "it does not answer in time", 0),
    "slow loris": (slow_loris, "it does not answer in time", 0),
    "refused": (lambda: at("http://127.0.0.1:{port}"), "nothing runs at its address", 0),
    "wrong name": (lambda: at("http://hooks.invalid"), "its host name is not known here", 0),
    "500": (lambda: receiver(500), "it answers 500", 2),
    "429": (lambda: receiver(429, headers={"Retry-After": "0"}), "it answers 429", 2),
    "401": (lambda: receiver(401), "it answers 401", 1),
    "redirect": (lambda: receiver(302, headers={"Location": "/elsewhere"}), "a redirect, which is not followed", 1),
    "redirect of POST": (lambda: receiver(308, headers={"Location": "/elsewhere"}), "it answers 308, a redirect", 1),
    "hangs up": (lambda: raw_server(b""), "it hangs up", 0),
    "ssh": (lambda: raw_server(b"SSH-2.0-OpenSSH_9.6\r\n"), "(does not speak HTTP|hangs up)", 0),
    "no TLS": (as_https, "it does not speak TLS", 0),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_webhook_that_fails_costs_no_time_and_is_told(
    fault: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server, says, tries = FAULTS[fault]
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(outbox, "FIRST_PAUSE_S", 0.01)
    with server() as found:
        url, got = found if isinstance(found, tuple) else (found, [])
        monkeypatch.setenv("HOOK", url + SECRET_PATH)
        dispatcher = Dispatcher(target(timeout_s=0.2, max_tries=2))
        started = time.monotonic()
        dispatcher.tell(note())
        assert time.monotonic() - started < 0.1
        delivered = dispatcher.end(1.5)
        assert time.monotonic() - started < 2.0
    (told,) = summary(delivered)
    assert re.search(says, told) and "0 notifications sent, 1 dropped" in told
    assert "sEcReT" not in told + caplog.text
    assert len(got) == tries and {request.path for request in got} <= {SECRET_PATH}


@pytest.mark.parametrize("fault", ["hangs", "slow loris", "refused", "wrong name", "500", "401"])
def test_a_service_of_apprise_that_fails_costs_no_time_and_is_told(
    fault: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with FAULTS[fault][0]() as found:
        url = found[0] if isinstance(found, tuple) else found
        monkeypatch.setenv("HOOK", url.replace("http", "json") + SECRET_PATH)
        dispatcher = Dispatcher(target(kind="apprise", timeout_s=0.3, max_tries=1))
        started = time.monotonic()
        dispatcher.tell(note())
        delivered = dispatcher.end(1.0)
        assert time.monotonic() - started < 1.5
    (told,) = summary(delivered)
    assert re.search("in time|did not take it", told), told
    assert "sEcReT" not in told + caplog.text


def test_a_webhook_gets_signed_json_of_the_schema_and_the_same_id_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setenv("KEY", "a secret key")
    with receiver(503, 200) as (url, got):
        monkeypatch.setenv("HOOK", url + SECRET_PATH)
        dispatcher = Dispatcher(target(secret_env="KEY"))
        sent = note(stage="train", step=3, total=9, unit="steps", loss=0.5, eta_s=1.5, links={"mlflow": "http://m/1"})
        dispatcher.tell(sent)
        delivered = dispatcher.end(5.0)
    assert not summary(delivered) and [result.sent for result in delivered.values()] == [1]
    assert len(got) == 2 and got[0].body == got[1].body
    for request in got:
        timestamp = request.headers["X-Sana-Timestamp"]
        assert abs(int(timestamp) - time.time()) < 60
        assert request.headers["X-Sana-Signature"] == sign("a secret key", timestamp, request.body)
        assert request.headers["X-Sana-Delivery"] == sent.id and request.headers["X-Sana-Event"] == "run.started"
    payload = json.loads(got[0].body)
    assert payload["id"] == sent.id and payload["loss"] == 0.5 and payload["run"] == RUN and payload["error"] is None
    check_schema([payload])


def check_schema(payloads: list[dict[str, Any]]) -> None:
    """Compare payloads with the schema that the page gives."""
    (schema,) = re.findall(r"```json\n(.*?)```", (ROOT / "docs/notifications.md").read_text(), re.DOTALL)
    validator = jsonschema.Draft202012Validator(json.loads(schema))
    for payload in payloads:
        validator.validate(payload)
        assert set(payload) == set(json.loads(schema)["properties"])


def test_discord_gets_words_through_apprise(monkeypatch: pytest.MonkeyPatch) -> None:
    from apprise.plugins.discord import NotifyDiscord

    with receiver(204) as (url, got):
        monkeypatch.setattr(NotifyDiscord, "notify_url", f"{url}/api/webhooks")
        monkeypatch.setenv("HOOK", "discord://0123456789/sEcReT-tOkEn")
        dispatcher = Dispatcher(target(kind="apprise"))
        dispatcher.tell(note(error="RuntimeError: out of memory", step=3, total=9, unit="steps", eta_s=3700.0))
        assert not summary(dispatcher.end(5.0))
    text = got[0].body.decode()
    assert "the run starts" in text and "out of memory" in text and "steps 3 of 9, 1 h 1 min left" in text


def test_a_burst_is_dropped_but_for_what_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    """10,000 events while the target hangs: no waiting, a bounded queue, and the end of the run is not lost in it."""
    held, got = threading.Event(), []

    class Held:
        def send(self, note: Notification, timeout_s: float) -> None:
            held.wait(10)
            got.append(note)

        def abort(self) -> None:
            pass

    monkeypatch.setattr("sana.delivery.dispatch.open_transport", lambda target: Held())
    monkeypatch.setenv("HOOK", "http://x")
    dispatcher = Dispatcher(target(timeout_s=20, progress_every_s=1, events=["checkpoint", "run", "error"]))
    started = time.monotonic()
    for step in range(10_000):
        dispatcher.tell(Notification("checkpoint", "saved", "info", "saved", RUN, step=step))
    failed = Notification("run", "failed", "error", "the run failed", RUN)
    dispatcher.tell(failed)
    assert time.monotonic() - started < 2.0
    held.set()
    (delivered,) = dispatcher.end(5.0).values()
    assert delivered.sent == 101 and dict(delivered.dropped) == {outbox.QUEUE_FULL: 9_900}
    assert [one.step for one in got[1:-1]] == list(range(9_901, 10_000)) and got[-1] is failed


def test_progress_is_throttled_for_each_target(monkeypatch: pytest.MonkeyPatch) -> None:
    with receiver() as (url, got):
        monkeypatch.setenv("HOOK", url)
        dispatcher = Dispatcher(target(events=["progress", "preview"], progress_every_s=3600))
        for step in range(50):
            dispatcher.tell(Notification("progress", "running", "info", "at work", RUN, step=step))
            dispatcher.tell(Notification("preview", "ready", "info", "a picture", RUN, step=step))
        dispatcher.end(5.0)
    assert sorted(json.loads(request.body)["event"] for request in got) == ["preview", "progress"]


@pytest.fixture
def place(tmp_path: Path, tracking_database: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Config]:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "work").mkdir()
    shutil.copy(tracking_database, tmp_path / "work")

    def config(*overrides: str) -> Config:
        places = [f"root={tmp_path}/store", f"work_dir={tmp_path}/work"]
        return load_config("configs/demo.yaml", [*places, *overrides])

    return config


def watched(config: Config, *, on_server: bool = False) -> tuple[Observers, Tracker, Context]:
    store = open_store(config.root)
    facts = {"prefect.flow_run_url": "http://prefect:4200/runs/flow-run/1"}
    tracker = Tracker(config, store, pipeline_key(config), facts)
    notifier = Notifier(config.notifications, tracker, on_server=on_server)
    return Observers([TrackingObserver(tracker), notifier]), tracker, Context(config, store, Path(config.work_dir))


def a_run(run: Observers, context: Context, error: SanaError | None) -> None:
    """What a run tells its observers, as far as it matters here."""
    recipe = Recipe("train", 1, {}, {})
    links = {"links": {"published": "https://hub/labs/bunny"}}  # as stage publish has them
    made = Artifact("train", "f" * 16, 1, {}, {}, {}, Counts.all_kept(3), {}, facts=links)
    run.on_run_start(RunStart("demo", context))
    run.on_event(StageStart("download"))
    run.on_event(StageEnd("download", "cached"))
    run.on_event(StageStart("train"))
    run.on_event(WorkStart("train", recipe, {}))
    run.on_stage_progress("train", Progress(0, 60, "steps"))
    happened = (CheckpointSaved(30, "train/t/index.json"), ValidationDone(30, "", {}, 2.0, error="out of\nmemory"))
    row = {"step": 30, "train/loss": 0.25, "eval/loss_ema": float("nan")}
    run.on_stage_progress("train", Progress(30, 60, "steps", metrics=(row,), happened=happened))
    run.on_stage_progress("train", Progress(40, 60, "steps", happened=(PreviewReady(30, "bunny", 5, 50, "p.png"),)))
    if error is None:
        run.on_event(Committed("train", recipe, {}, made, "completed"))
    run.on_event(StageEnd("train", "completed" if error is None else "failed", error))
    run.on_run_end(error)


EVENTS = "[run, stage, progress, checkpoint, validation, preview, error]"


@pytest.mark.parametrize("fails", [False, True])
def test_a_run_is_told_from_start_to_end_and_no_secret_is_kept(
    fails: bool,
    place: Callable[..., Config],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    emitted: list[dict[str, Any]] = []
    monkeypatch.setattr(observer, "emit_event", lambda **event: emitted.append(event))
    monkeypatch.setenv("KEY_OF_HOOK", "sEcReT-key-of-the-hook")
    with receiver() as (url, got):
        monkeypatch.setenv("HOOK", url + SECRET_PATH)
        settings = f"{{url_env: HOOK, secret_env: KEY_OF_HOOK, events: {EVENTS}, progress_every_s: 3600}}"
        config = place(f"notifications.targets=[{settings}]")
        run, tracker, context = watched(config, on_server=True)
        a_run(run, context, SanaError(f"no answer from\n{url}{SECRET_PATH}; sEcReT-key-of-the-hook") if fails else None)
    payloads = [json.loads(request.body) for request in got]
    check_schema(payloads)
    end = "failed" if fails else "completed"
    assert [(one["event"], one["state"], one["stage"]) for one in payloads] == [
        ("run", "started", None),
        ("stage", "started", "train"),
        ("progress", "running", "train"),
        ("checkpoint", "saved", "train"),
        ("validation", "failed", "train"),
        ("preview", "ready", "train"),
        ("stage", end, "train"),
        ("run", end, None),
    ], "what is cached is of level debug"
    last, stage_end, checkpoint = payloads[-1], payloads[-2], payloads[3]
    assert checkpoint["loss"] == 0.25 and checkpoint["step"] == 30 and checkpoint["eval_loss"] is None
    assert payloads[4]["error"] == "out of memory" and payloads[4]["level"] == "warning"
    assert (stage_end["step"], stage_end["total"]) == (40, 60)
    published = {} if fails else {"published": "https://hub/labs/bunny"}
    assert last["links"] == {"prefect": "http://prefect:4200/runs/flow-run/1", **published}
    assert payloads[4]["title"] == "demo: validation at step 30 failed"
    assert last["run"]["config_digest"] == pipeline_key(config)
    assert last["level"] == ("error" if fails else "info")
    assert last["error"] == ("no answer from ***; ***" if fails else None)
    names = [event["event"] for event in emitted]
    assert names == [
        f"sana.{one['event']}.{one['state']}" for one in payloads if one["event"] not in ("progress", "preview")
    ]
    assert {event["resource"]["prefect.resource.id"] for event in emitted} == {f"sana.pipeline.{tracker.key}"}
    assert tracker.run_id is not None
    mine = MlflowClient(tracking_uri(config)).get_run(tracker.run_id)
    assert mine.data.tags["sana.notifications"] == "all sent" and mine.data.metrics["notifications_dropped"] == 0
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    told = b"".join(request.body for request in got) + json.dumps(emitted).encode() + caplog.text.encode()
    assert b"demo" in kept and b"sEcReT" not in told
    if not fails:  # an error of a stage is kept by MLflow as the stage raised it
        assert b"sEcReT" not in kept


@pytest.mark.parametrize(
    "error, limit_s", [(None, 2.0), (SanaError("x"), 2.0), (KeyboardInterrupt(), 1.8)], ids=["done", "failed", "cancel"]
)
def test_a_run_ends_in_time_when_its_target_hangs(
    error: BaseException | None,
    limit_s: float,
    place: Callable[..., Config],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(observer, "KILLED_DRAIN_S", 0.1)
    with raw_server(None) as url:
        monkeypatch.setenv("HOOK", url)
        config = place("notifications={targets: [{url_env: HOOK}, {url_env: NOT_SET}], drain_s: 0.3}")
        run, tracker, context = watched(config)
        run.on_run_start(RunStart("demo", context))
        for step in range(200):
            happened = (CheckpointSaved(step, "train/t/index.json"),)
            run.on_stage_progress("train", Progress(step, 200, "steps", happened=happened))
        started = time.monotonic()
        run.on_run_end(error)
        assert time.monotonic() - started < limit_s
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 2 and "NOT_SET, which url_env names, is not set here; nothing is sent to it" in warnings[0]
    assert "0 notifications sent, 202 dropped (the queue was full: 101, the run ended before: 101)" in warnings[1]
    assert tracker.run_id is not None
    found = MlflowClient(tracking_uri(config)).get_run(tracker.run_id)
    assert found.data.metrics["notifications_dropped"] == 202 and "202 dropped" in found.data.tags["sana.notifications"]


def test_a_flow_run_tells_its_targets(place: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    """As `sana run` opens a run; without targets and a server of one's own nobody is told."""
    monkeypatch.setattr("tasks.flow_run.PrefectProgress", lambda **_: Observer())  # it would start a server
    with receiver() as (url, got):
        monkeypatch.setenv("HOOK", url)
        for targets in ("[]", "[{url_env: HOOK}]"):
            config = place(f"notifications.targets={targets}")
            context = Context(config, open_store(config.root), Path(config.work_dir))
            with handed_over(context, (), [], on_temporary_server=True), open_run("demo.yaml", (), None, ()):
                pass
    states = [(one["event"], one["state"]) for one in (json.loads(request.body) for request in got)]
    assert states == [("run", "started"), ("run", "completed")]
