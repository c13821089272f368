"""The live page over made-up roots: what it shows, what it refuses, and that one thread reads for all."""

import base64
import json
import re
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message
from pathlib import Path

import psutil
import pytest

from flows.web import root_reader
from flows.web.live_server import live_page
from flows.web.mlflow_link import runs_address
from sana.config.load import load_config
from sana.context import Context
from sana.store import Store, open_store
from tests.loopback_servers import web_server
from tests.trained_roots import VIDEO, commit_training, record_run, save_steps

EVIL = "<script>alert(1)</script>\" onload='x' javascript:alert(2)"


def get(url: str, **headers: str) -> tuple[int, Message, str]:
    request = urllib.request.Request(url, headers={name.replace("_", "-"): text for name, text in headers.items()})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.headers, answer.read().decode("utf-8", "replace")
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read().decode("utf-8", "replace")


@contextmanager
def served(store: Store) -> Iterator[str]:
    with live_page(store, host="127.0.0.1", port=0) as page:
        yield page.url


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "root"))


def parts_until(url: str, words: str) -> list[dict[str, str]]:
    """Return the parts that a stream of events sends, up to the first with these words in it."""
    found: list[dict[str, str]] = []
    with urllib.request.urlopen(url, timeout=20) as stream:
        for line in stream:
            if line.startswith(b"data: "):
                found.append(json.loads(line[6:]))
                if words in found[-1]["html"]:
                    break
    return found


def digests(page: str) -> str:
    """Return what the script of a page says that it has."""
    return ",".join(":".join(pair) for pair in re.findall(r'id="part-(\w+)" data-digest="(\w+)"', page))


def test_an_empty_root_says_what_to_do_and_a_training_shows_up_by_itself(store: Store) -> None:
    with served(store) as url:
        code, headers, page = get(f"{url}/")
        assert code == 200 and "sana run CONFIG" in page
        assert "script-src 'self'" in headers["Content-Security-Policy"] and headers["Cache-Control"] == "no-store"
        train = commit_training(store, "0000aaaa0000aaaa")
        events = parts_until(f"{url}/events?page=overview&have={digests(page)}", train.fingerprint)
    assert [event["part"] for event in events] == ["trainings"]  # what did not change was not sent


def test_a_training_is_shown_with_its_curves_and_its_videos_play_by_range(store: Store) -> None:
    train = commit_training(store, "0000aaaa0000aaaa", steps=200)
    with served(store) as url:
        _, _, page = get(f"{url}/training/{train.fingerprint}")
        for words in (
            "0.7000",
            "53.3 % lower",
            "Training loss",
            "Eval loss",
            "Gradient norm",
            "<svg",
            "max_steps: 200",
        ):
            assert words in page
        address = page.partition('<video controls loop muted playsinline preload="metadata" src="')[2].partition('"')[0]
        code, headers, _ = get(f"{url}{address}")
        assert (code, headers["Content-Type"], headers["Content-Length"]) == (200, "video/mp4", str(len(VIDEO)))
        code, headers, text = get(f"{url}{address}", Range="bytes=5-64")
        assert (code, headers["Content-Range"]) == (206, f"bytes 5-64/{len(VIDEO)}")
        assert text == VIDEO[5:65].decode("utf-8", "replace")
        assert get(f"{url}{address}", Range="bytes=999999-")[0] == 416
        assert get(f"{url}{address}", If_None_Match=headers["ETag"])[0] == 304


def test_a_training_that_is_not_finished_has_curves_too(store: Store) -> None:
    save_steps(store, "0000bbbb0000bbbb", 100)
    with served(store) as url:
        code, _, page = get(f"{url}/training/0000bbbb0000bbbb")
    assert code == 200 and "not finished" in page and "Training loss" in page


@pytest.mark.parametrize(
    "address",
    [
        "/file/train/../{digest}/artifact.json",
        "/file/train/%2e%2e/{digest}/artifact.json",
        "/file/..%2f..%2fetc/passwd/{digest}/passwd",
        "/file/train/{fingerprint}/{digest}/../../../../etc/passwd",
        "/file/train/{fingerprint}/{digest}/%2e%2e%2fartifact.json",
        "/file/train/{fingerprint}/{digest}//etc/passwd",
        "/file/train/{fingerprint}/{digest}/artifact.json",
        "/file/train/{fingerprint}/0000/sigma_histogram.png",
        "/validation/..%2f..%2fetc/1/x/{digest}/passwd",
        "/static/..%2flayout.html.j2",
        "/static/page.css",
        "/training/..%2f..%2fetc",
        "/training/%00",
        "/etc/passwd",
    ],
)
def test_nothing_but_a_file_named_in_a_record_is_served(store: Store, address: str) -> None:
    train = commit_training(store, "0000aaaa0000aaaa")
    digest = train.files["sigma_histogram.png"].digest
    with served(store) as url:
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=10) as raw:
            place = address.format(digest=digest, fingerprint=train.fingerprint)  # as it is: no client tidies it up
            raw.sendall(f"GET {place} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            answer = b"".join(iter(lambda: raw.recv(65536), b"")).decode()
        whole = get(f"{url}/file/train/{train.fingerprint}/{digest}/sigma_histogram.png")
    assert answer.startswith("HTTP/1.1 404") and "root:" not in answer
    assert whole[0] == 200 and whole[2] == "png"


def test_names_with_markup_are_text(store: Store) -> None:
    train = commit_training(
        store, "0000aaaa0000aaaa", config={"method": {"name": EVIL}}, prompts={EVIL: "a.mp4", "b": "<b>.mp4"}
    )
    with served(store) as url:
        pages = [get(f"{url}/{place}")[2] for place in ("", f"training/{train.fingerprint}", "?find=%3Cscript%3E%22")]
        pages.append(get(f"{url}/training/%3Cscript%3Ealert(1)")[2])
    for page in pages:
        body = page.replace('<script src="/static/live.js"></script>', "")
        assert "<script" not in body and "<b>.mp4" not in body and "onload='x'" not in body
        assert 'href="javascript' not in body and "&lt;script&gt;" in body


def test_it_listens_on_loopback_alone(store: Store) -> None:
    before = listening()
    with served(store) as url:
        opened = listening() - before
    assert opened == {("127.0.0.1", int(url.rpartition(":")[2]))}


def listening() -> set[tuple[str, int]]:
    found = psutil.Process().net_connections(kind="all")
    return {(one.laddr[0], one.laddr[1]) for one in found if one.status == psutil.CONN_LISTEN}


def test_a_bucket_is_shown_as_a_folder_is(s3_root: str) -> None:
    store = open_store(s3_root)
    train = commit_training(store, "0000aaaa0000aaaa")
    digest = train.files["sigma_histogram.png"].digest
    with served(store) as url:
        assert train.fingerprint in get(f"{url}/")[2]
        page = get(f"{url}/training/{train.fingerprint}")[2]
        address = f"{url}/file/train/{train.fingerprint}/{digest}/sigma_histogram.png"
        assert "Training loss" in page and get(address, Range="bytes=1-2")[2] == "ng"


def test_other_addresses_are_pages_that_say_so(store: Store) -> None:
    with served(store) as url:
        for place in (
            "nothing",
            "training/0123456789abcdef",
            "data",
            "data/20260101-000000-aaaaaa",
            "report/0123456789abcdef",
            "run/x",
            "events?page=x",
        ):
            code, _, page = get(f"{url}/{place}")
            assert code == 404 and "<h2>" in page and "<nav>" in page
        assert get(f"{url}/", Host="evil.example")[0] == 421


def test_the_data_report_of_a_config_is_shown_and_can_reach_nothing(store: Store, tmp_path: Path) -> None:
    config = load_config("configs/demo.yaml", [f"root={store.root}", f"work_dir={tmp_path}"])
    context = Context(config, store, tmp_path, read_only=True)
    with live_page(store, host="127.0.0.1", port=0, context=context) as page:
        assert 'href="/data"' in get(f"{page.url}/")[2]
        code, headers, text = get(f"{page.url}/data")
    assert code == 200 and "Data report" in text
    assert headers["Content-Security-Policy"].startswith("sandbox allow-scripts; default-src 'none'")


def test_two_trainings_are_compared_or_it_says_why_not(store: Store) -> None:
    first = commit_training(store, "0000aaaa0000aaaa")
    with served(store) as url:
        assert "Nothing to compare yet" in get(f"{url}/compare")[2]
    second = commit_training(store, "0000bbbb0000bbbb", steps=200)
    with served(store) as url:
        form = get(f"{url}/compare?a={second.fingerprint}")[2]
        assert f'<option value="{second.fingerprint}" selected>' in form and first.fingerprint in form
        code, _, page = get(f"{url}/comparison?a={first.fingerprint}&b=%3Cscript%3E")
        assert code == 404 and "This cannot be shown" in page and "<script" not in page


def test_the_link_to_mlflow_opens_the_runs_of_the_experiment(store: Store) -> None:
    place = "/api/2.0/mlflow/experiments/get-by-name?experiment_name=a%2Fb"
    with web_server({place: (200, {"experiment": {"experiment_id": "7"}})}) as url:
        assert runs_address(url, "a/b") == f"{url}/#/experiments/7/runs?workflowType=machine_learning"
        assert runs_address(url, "none") == f"{url}/#/experiments?workflowType=machine_learning"
    with live_page(store, host="127.0.0.1", port=0) as page:
        page.link_mlflow("http://127.0.0.1:1/#/x?a=b&c=<")
        assert 'href="http://127.0.0.1:1/#/x?a=b&amp;c=&lt;"' in get(f"{page.url}/")[2]


def test_a_run_is_shown_while_it_runs_when_it_is_killed_and_when_it_ends(store: Store) -> None:
    trajectory, fingerprint = "0000aaaa0000aaaa", "c0ffee00c0ffee00"
    save_steps(store, trajectory, 50)
    live = [{"step": step, "train/loss": 0.25} for step in (51, 52)]
    first = {"trajectory": trajectory, "fingerprint": fingerprint, "rows": live}
    record_run(store, "20261128-120000-aaaaaa", **first)
    with served(store) as url:
        page = get(f"{url}/training/{trajectory}")[2]
        for words in (
            "running",
            "30 of 100 steps",
            "1 min 10 s left",
            "0.2500",
            "<b>52</b>",
            "Attempts",
            "method lora",
        ):
            assert words in page
        assert "30 of 100 steps" in get(f"{url}/")[2] and "1 rejected" in get(f"{url}/run/20261128-120000-aaaaaa")[2]
        record_run(store, "20261128-120100-bbbbbb", **first, heard_at=time.time() - 600)
        [*_, event] = parts_until(f"{url}/events?page=training&key={trajectory}", "Nothing was heard")
        assert event["part"] == "head" and "silent" in event["html"]
        record_run(store, "20261128-120200-cccccc", **first, end="failed", error="no room:\nfree some <space>")
        parts_until(f"{url}/events?page=training&key={trajectory}", "no room")
        assert "free some &lt;space&gt;" in get(f"{url}/run/20261128-120200-cccccc")[2]
        runs = get(f"{url}/runs")[2]
        assert runs.count("data-key") == 3 and get(f"{url}/runs?state=failed")[2].count("data-key") == 1


def test_links_that_a_browser_must_not_follow_are_left_out(store: Store) -> None:
    links = {"Prefect": "http://127.0.0.1:4200/runs/1", "MLflow": "javascript:alert(1)", EVIL: "https://a/'\"<b>"}
    record_run(store, "20261128-120000-aaaaaa", title=EVIL, trajectory="0000aaaa0000aaaa", links=links)
    save_steps(store, "0000aaaa0000aaaa", 50)
    with served(store) as url:
        places = ("", "runs", "run/20261128-120000-aaaaaa", "training/0000aaaa0000aaaa")
        pages = [get(f"{url}/{place}")[2] for place in places]
    assert 'href="http://127.0.0.1:4200/runs/1"' in pages[2]
    for page in pages:
        body = page.replace('<script src="/static/live.js"></script>', "")
        assert "<script" not in body and "onload='x'" not in body and "&lt;script&gt;" in body
        assert not re.search(r'(href|src)="(?!/|\?|https?://|data:,)', body)


def test_a_file_that_is_gone_is_an_answer_and_not_half_of_one(store: Store) -> None:
    train = commit_training(store, "0000aaaa0000aaaa")
    file = train.files["sigma_histogram.png"]
    store.delete(file.key)
    with served(store) as url:
        code, _, page = get(f"{url}/file/train/{train.fingerprint}/{file.digest}/sigma_histogram.png")
    assert code == 404 and "no such object in the store" in page


def test_the_run_report_of_a_training_and_the_data_report_of_a_run(store: Store) -> None:
    train = commit_training(store, "0000aaaa0000aaaa")
    save_steps(store, "0000bbbb0000bbbb", 50)
    live = [{"step": 51, "train/loss": 0.125}]
    run = {"title": "kittens", "trajectory": "0000bbbb0000bbbb", "fingerprint": "c0ffee00c0ffee00", "rows": live}
    record_run(store, "20261128-120000-aaaaaa", **run)
    with served(store) as url:
        assert "kittens" in get(f"{url}/")[2]
        code, headers, unfinished = get(f"{url}/report/0000bbbb0000bbbb")
        assert code == 200 and "kittens" in unfinished and headers["Content-Security-Policy"].startswith("sandbox")
        code, _, page = get(f"{url}/data/20261128-120000-aaaaaa")
        assert code == 404 and "20261128-120000-aaaaaa" in page  # its config is none
        record_run(store, "20261128-120100-bbbbbb", title="cats", config=Path("configs/demo.yaml").read_text())
        code, _, page = get(f"{url}/data/20261128-120100-bbbbbb")
        assert code == 200 and "<h1>cats</h1>" in page and store.root in page
        assert get(f"{url}/report/{train.fingerprint}")[0] == 200


def test_symbolic_links_lead_to_nothing_outside_of_the_root(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train = commit_training(store, "0000aaaa0000aaaa", prompts={"a": "a.mp4", "b": "b.mp4"})
    with served(store) as url:
        page = get(f"{url}/training/{train.fingerprint}")[2]
    addresses = dict(re.findall(r'src="(/file/[^"]*/(\w)\.mp4)"', page)[n][::-1] for n in range(2))
    files = {path.name: path for path in (tmp_path / "root" / "sample").rglob("*.mp4")}
    secret, moved = tmp_path / "secret", tmp_path / "moved"
    secret.write_bytes(b"s" * len(VIDEO))
    files["b.mp4"].unlink()
    files["b.mp4"].symlink_to(secret)
    (tmp_path / "root" / "sample").rename(moved)
    (tmp_path / "root" / "sample").symlink_to(moved)  # a whole stage on another disk
    with served(store) as url:
        assert get(f"{url}{addresses['a']}")[2] == VIDEO.decode("utf-8", "replace")
        code, _, text = get(f"{url}{addresses['b']}")
        assert code == 404 and "no such object in the store" in text
        report = get(f"{url}/report/{train.fingerprint}")[2]
    assert base64.b64encode(b"s" * 30).decode() not in report and base64.b64encode(VIDEO[:30]).decode() in report
    assert ["leads out of the root" in record.getMessage() for record in caplog.records] == [True]


def test_settings_with_direction_marks_and_controls_are_shown_as_escapes(store: Store) -> None:
    config = "train: 1 # \u202e\u2066\x1b[31m\x00\nnext: <b>"
    record_run(store, "20261128-120000-aaaaaa", trajectory="0000bbbb0000bbbb", config=config)
    save_steps(store, "0000bbbb0000bbbb", 50)
    with served(store) as url:
        pages = [get(f"{url}/{place}")[2] for place in ("run/20261128-120000-aaaaaa", "training/0000bbbb0000bbbb")]
    for page in pages:
        assert "train: 1 # \\u202e\\u2066\\x1b[31m\\x00\nnext: &lt;b&gt;" in page


def test_one_page_too_many_is_told_so(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(root_reader, "MAX_WATCHERS", 1)
    with served(store) as url, urllib.request.urlopen(f"{url}/events?page=runs", timeout=20) as stream:
        assert stream.readline() == b"retry: 3000\n"
        code, _, page = get(f"{url}/events?page=runs")
    assert code == 503 and "1 pages are open already" in page
    assert not caplog.records
