"""Pages in Prefect: names stay text, numbers are those of the artifacts, and a slow server costs no time."""

import threading
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest
from PIL import Image
from prefect.settings import PREFECT_API_URL, temporary_settings

from sana.artifact import Artifact, FileInfo
from sana.counts import Counts
from sana.facts import EvaluateFacts, PairedDifference, SampleFacts, TrainFacts, WeightsLoss
from sana.pipeline.observers import Committed, RunStart, StageEnd, StageStart, WorkStart
from sana.progress import Progress
from sana.store import Store, open_store
from tasks.prefect_pages import observer, sender, work_page
from tasks.prefect_pages.markdown import link, table, text, trouble
from tasks.prefect_pages.run_page import PICTURE_BYTES, run_page
from tasks.prefect_pages.sender import Page, PageSender
from tasks.prefect_pages.stages import SeenStage, stage_page
from tests.loopback_servers import free_port, raw_server


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("clip-01.mp4", "clip-01.mp4"),
        ("a|b", "a\\|b"),
        ("<script>alert(1)</script>", "\\<script\\>alert\\(1\\)\\</script\\>"),
        ("[x](javascript:alert)", "\\[x\\]\\(javascript\\:alert\\)"),
        ("![x](y) `z` *b* _i_ ~s~", "\\!\\[x\\]\\(y\\) \\`z\\` \\*b\\* \\_i\\_ \\~s\\~"),
        ("see https://x.yz or WWW.x.yz", "see https<!-- -->\\://x.yz or WWW<!-- -->.x.yz"),
        ("s3://x/ann@x.yz @y", "s3\\://x/ann<!-- -->\\@x.yz \\@y"),
        ("- [ ] a - b", "\\- \\[ \\] a - b"),
        ("1. a", "1\\. a"),
        ("-1.5", "-1.5"),
        ("&lt;b&gt;", "\\&lt;b\\&gt;"),
        ("two\nlines\x1b[2J", "two lines \\[2J"),
        ("C:\\clips", "C\\:\\\\clips"),
        ("grüße 视频", "grüße 视频"),
        ("x" * 400, "x" * 297 + "..."),
    ],
)
def test_names_are_text(given: str, shown: str) -> None:
    assert text(given) == shown


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://x.yz/#/a?b=1", "[L](<https://x.yz/#/a?b=1>)"),
        ("http://x.yz/a b>c", "[L](<http://x.yz/a%20b%3Ec>)"),
        ("javascript:alert(1)", "L"),
        ("data:text/html,x", "L"),
        ("/etc/passwd", "L"),
        ("https://[x", "L"),
    ],
)
def test_links_go_to_the_web_only(url: str, shown: str) -> None:
    assert link("L", url) == shown


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("no <b>", "**no \\<b\\>**"),
        ("2 mistakes\n  a: ![x](y)\n\n  # b", "**2 mistakes**\n\n- a\\: \\!\\[x\\]\\(y\\)\n- \\# b"),
        ("x" * 100_000, f"**{'x' * 1997}...**"),
        ("", ""),
    ],
)
def test_an_error_keeps_its_lines(message: str, shown: str) -> None:
    assert trouble(message) == shown
    assert len(trouble("a\n" * 100_000).splitlines()) == 22


def test_a_table_has_a_ruler() -> None:
    assert table(["a", "n"], [["x", "1"]], numbers=["n"]) == "| a | n |\n| --- | ---: |\n| x | 1 |"


def made(stage: str, **what: Any) -> Artifact:
    counts = what.pop("counts", Counts.all_kept(4))
    return Artifact(stage, "f" * 16, 1, {}, {}, {}, counts, what.pop("files", {}), seconds=2.0, **what)


def evaluated(difference: float, stderr: float | None) -> Artifact:
    loss = {
        name: WeightsLoss(mean, 0.01, ()) for name, mean in (("initial", 1.5), ("live", 0.7), ("ema", 1.5 + difference))
    }
    paired = {name: PairedDifference(difference, stderr, 4, -difference / 1.5) for name in ("live", "ema")}
    return made("evaluate", facts=EvaluateFacts(loss, paired, step=60).to_value())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "root"))


@pytest.mark.parametrize(
    ("difference", "stderr", "said"),
    [
        (
            -0.8,
            0.01,
            "fell from 1.5000 to 0.7000** by the EMA weights of step 60, on 4 held-out clips (by more than two",
        ),
        (-0.01, 0.01, "(by less than two standard errors: it may be noise)"),
        (0.5, 0.01, "rose from 1.5000 to 2.0000"),
        (-0.8, None, "(one sample has no standard error)"),
    ],
)
def test_the_verdict_says_how_sure_it_is(store: Store, difference: float, stderr: float | None, said: str) -> None:
    seen = SeenStage("evaluate", None, "completed", evaluated(difference, stderr))
    assert said in stage_page(seen, "demo", store, []) and said in run_page("demo", "completed", [seen], store, [], "")


def test_a_stage_page_has_counts_reasons_and_its_rate(store: Store) -> None:
    counts = Counts(10, 8, 2, {"too_short": 2}, {}, None, {"opened": 7, "truncated": 0})
    seen = SeenStage("probe", None, "completed", made("probe", counts=counts))
    seen.progress, seen.started_at = Progress(10, 10, "videos", before=3), time.monotonic()
    page = stage_page(seen, "<b>", store, [link("MLflow", "http://127.0.0.1:5000/")])
    for row in (
        "in | 10",
        "out | 8",
        "rejected | 2",
        "opened | 7",
        "took | 2.0 s",
        "rate | 3.5 videos/s",
        "too\\_short | 2",
    ):
        assert f"| {row} |" in page
    assert page.startswith("## probe of \\<b\\>: completed") and "[MLflow](<http://127.0.0.1:5000/>)" in page
    assert "truncated" not in page


@pytest.mark.parametrize(("seconds", "rate"), [(2.0, "5 steps/s"), (20.0, "30 steps/min"), (7200.0, "5 steps/h")])
def test_slow_rates_are_by_the_minute_or_hour(seconds: float, rate: str) -> None:
    seen = SeenStage("train", None, progress=Progress(10, 20, "steps"), started_at=time.monotonic() - seconds)
    assert seen.rate == rate


def test_a_run_page_shows_the_error_the_model_and_a_picture(store: Store) -> None:
    sheet = BytesIO()
    Image.effect_noise((2000, 2000), 100.0).save(sheet, "PNG")  # what compresses worst
    store.put_if_absent("sample/f/contact_sheet.png", sheet.getvalue())
    files = {"contact_sheet.png": FileInfo("sample/f/contact_sheet.png", 1, "")}
    sampled = made("sample", files=files, facts=SampleFacts({"cat": "cat.mp4"}, "contact_sheet.png").to_value())
    trained = made("train", facts=TrainFacts("t", 60, "c", (), "train/f/model").to_value())
    seen = [SeenStage("train", None, "cached", trained), SeenStage("sample", None, "completed", sampled)]
    seen.append(SeenStage("publish", None, "failed", progress=Progress(1, 3, "files"), error="no token"))
    page = run_page("demo", "failed", seen, store, ["L"], "no <token>")
    assert page.startswith("# demo: failed\n\n**no \\<token\\>**\n\nL\n")
    assert f"| model | {text(store.uri('train/f/model'))} |" in page and "| publish | failed |" in page
    picture = page.partition("![the samples](data:image/jpeg;base64,")[2].partition(")")[0]
    assert 0 < len(picture) < 1.4 * PICTURE_BYTES


class Server:
    """Prefect's client as far as pages need it; `slow`: no answer before it is set."""

    def __init__(self) -> None:
        self.pages: dict[UUID, tuple[str, str]] = {}
        self.slow = threading.Event()
        self.slow.set()

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None: ...

    def read_artifacts(self, **_: object) -> list[Any]:
        return []

    def create_artifact(self, artifact: Any) -> Any:
        self.slow.wait(20)
        self.pages[new := uuid4()] = (artifact.key, artifact.data)
        return SimpleNamespace(id=new)

    def update_artifact(self, known: UUID, artifact: Any) -> None:
        self.pages[known] = (self.pages[known][0], artifact.data)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    server = Server()
    monkeypatch.setattr(sender, "get_client", lambda **_: server)
    yield server
    server.slow.set()


def page(key: str, make: Callable[[], str]) -> Page:
    return Page(key, "", make, uuid4())


def test_the_newest_of_a_page_is_sent_and_replaces_what_is_there(server: Server) -> None:
    server.slow.clear()
    pages = PageSender()
    pages.put(page("run", lambda: "first"))
    for number in range(5):
        pages.put(page("run", lambda number=number: f"{number}"))  # type: ignore[misc]
    pages.put(page("train", lambda: "trained"))
    server.slow.set()
    assert pages.end(10.0) == 0
    assert sorted(server.pages.values()) == [("run", "4"), ("train", "trained")]


def test_a_page_that_cannot_be_made_is_left_out(server: Server) -> None:
    def broken() -> str:
        raise OSError("storage is away")

    pages = PageSender()
    pages.put(page("run", broken))
    pages.put(page("train", lambda: "trained"))
    assert pages.end(10.0) == 0 and list(server.pages.values()) == [("train", "trained")]


@pytest.mark.parametrize("silent", [True, False], ids=["silent", "gone"])
def test_a_server_that_does_not_answer_keeps_nobody_waiting(silent: bool) -> None:
    with raw_server(None) as there:
        url = f"{there}/api" if silent else f"http://127.0.0.1:{free_port()}/api"
        with temporary_settings({PREFECT_API_URL: url}):
            pages = PageSender()
            started = time.monotonic()
            for number in range(3):
                pages.put(page(f"{number}", lambda: "x"))
            assert time.monotonic() - started < 0.5
            assert pages.end(0.5) == 3
            assert time.monotonic() - started < 2.0


def test_a_tracking_server_is_linked_without_its_password(
    server: Server, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = SimpleNamespace(flow_run=SimpleNamespace(id=str(uuid4())), task_run=SimpleNamespace(id=None))
    monkeypatch.setattr(observer, "runtime", run)
    tracker: Any = SimpleNamespace(run_id="r1", uri="http://ann:secret@127.0.0.1:5000/", try_to=lambda _: "7")
    pages = observer.PrefectPages(tracker, "demo.yaml")
    pages.on_run_start(RunStart("demo", SimpleNamespace(store=store)))  # type: ignore[arg-type]
    pages.on_event(StageStart("train"))
    pages.on_run_end(None)
    ((_, shown),) = server.pages.values()
    there = "http://127.0.0.1:5000/#/experiments/7/runs/r1?workflowType=machine_learning"
    for label, address in (("MLflow", ""), ("data report", "/artifacts/data_report.html")):
        assert f"[{label}](<{there}{address}>)" in shown
    assert f"[run report](<{there}/artifacts/run_report.html>)" in shown and "secret" not in shown


class Stopped(BaseException):
    """What ends a run in order."""


@pytest.mark.parametrize(
    ("error", "state", "words"),
    [
        (None, "completed", ["| missing when it began | 7 |", "| done | 9 of 10 samples |", "| rate | ", "\nmore\n"]),
        (ValueError("http://ann:secret@x\n  <b>"), "failed", ["**http<!-- -->\\://x**\n\n- \\<b\\>\n"]),
        (Stopped(), "stopped", ["**stopped**"]),
    ],
)
def test_a_piece_of_work_has_a_page(
    server: Server, monkeypatch: pytest.MonkeyPatch, error: BaseException | None, state: str, words: list[str]
) -> None:
    monkeypatch.setattr(work_page, "runtime", SimpleNamespace(flow_run=SimpleNamespace(id=str(uuid4()))))
    heard: list[Progress] = []
    try:
        with work_page.page_of_work("my configs/Demo|2.yaml", "encode worker 1 of 2", heard.append) as work:
            work.report(Progress(9, 10, "samples", before=2))
            work.numbers, work.more = [("missing when it began", 7)], lambda: ["more"]
            if error is not None:
                raise error
    except (ValueError, Stopped) as caught:
        assert caught is error
    ((key, shown),) = server.pages.values()
    assert key == "demo-2-encode-worker-1-of-2" and len(heard) == 1
    assert shown.startswith(f"# encode worker 1 of 2 of Demo\\|2: {state}\n") and "secret" not in shown
    assert all(word in shown for word in words), shown


def test_outside_of_prefect_work_has_no_page(server: Server) -> None:
    with work_page.page_of_work("demo.yaml", "validation", lambda _: None):
        pass
    assert not server.pages


def test_a_page_says_what_was_there_of_a_resumed_stage(store: Store) -> None:
    seen = SeenStage("train", None, "completed", made("train", facts=TrainFacts("t", 120, "c", (), "m").to_value()))
    seen.progress = Progress(120, 120, "steps", before=60)
    assert stage_page(seen, "demo", store, []).startswith("## train of demo: completed, 60 of 120 steps were there\n")
    assert "| train | completed, 60 of 120 steps were there |" in run_page("demo", "completed", [seen], store, [], "")


def test_a_run_has_a_page_and_each_of_its_stages(server: Server, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    run = SimpleNamespace(flow_run=SimpleNamespace(id=str(uuid4())), task_run=SimpleNamespace(id=str(uuid4())))
    monkeypatch.setattr(observer, "runtime", run)
    tracker: Any = SimpleNamespace(run_id=None, uri="sqlite:///x")
    pages = observer.PrefectPages(tracker, "my configs/Demo 2.yaml")
    pages.on_run_start(RunStart("Demo 2", SimpleNamespace(store=store)))  # type: ignore[arg-type]
    artifact, recipe = made("train", facts=TrainFacts("t", 60, "c", (), "m").to_value()), SimpleNamespace()
    for event in (StageStart("train"), WorkStart("train", recipe, {})):  # type: ignore[arg-type]
        pages.on_event(event)
    pages.on_stage_progress("train", Progress(60, 60, "steps"))
    pages.on_stage_progress("train", Progress(60, 60, "steps", phase="exporting", before=60))
    pages.on_event(Committed("train", recipe, {}, artifact, "completed"))  # type: ignore[arg-type]
    pages.on_event(StageEnd("train", "completed"))
    pages.on_event(StageStart("evaluate"))
    error = ValueError("out of luck")
    pages.on_event(StageEnd("evaluate", "failed", error))
    pages.on_run_end(error)
    shown = dict(server.pages.values())
    assert sorted(shown) == ["demo-2-evaluate", "demo-2-run", "demo-2-train"]
    assert "**out of luck**" in shown["demo-2-evaluate"] and "| rate | 30 steps/s |" in shown["demo-2-train"]
    assert shown["demo-2-run"].startswith("# Demo 2: failed\n\n**out of luck**")
    assert "| train | completed | 4 | 4 | 0 |  | 2.0 | 30 steps/s |" in shown["demo-2-run"]
    assert "sana ui 'my configs/Demo 2.yaml'" in shown["demo-2-run"]
