"""Who may ask the live page, which bytes a range names, and how many numbers a curve keeps."""

import json
import logging

import numpy as np
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from flows.web import server
from flows.web.byte_ranges import UnsatisfiableRangeError, parse_range
from flows.web.guard import Guard, is_loopback, may_be_called, names_of
from sana.metrics import parse_rows
from sana.runs.binned import MAX_BINS, BinnedRows


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),  # noqa: S104
        ("::", False),
        ("192.168.0.4", False),
        ("example.com", False),
        ("127.0.0.1.example.com", False),
    ],
)
def test_which_hosts_are_this_machine_alone(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


@pytest.mark.parametrize(
    ("header", "local", "open_to_all"),
    [
        ("127.0.0.1:5000", True, True),
        ("localhost:5000", True, True),
        ("LOCALHOST", True, True),
        ("localhost:8080", True, True),  # a tunnel
        ("[::1]:5000", True, True),
        ("127.0.0.1", True, True),
        ("10.0.0.7:5000", False, True),
        ("[fe80::1]:5000", False, True),
        ("evil.example", False, False),
        ("localhost.evil.example:5000", False, False),
        ("127.0.0.1.evil.example", False, False),
        ("localhost:5000:80", False, False),
        ("localhost:x", False, False),
        ("[::1", False, False),
        ("user@localhost", False, False),
        ("", False, False),
    ],
)
def test_a_host_header_is_a_name_of_this_server_or_an_address(header: str, local: bool, open_to_all: bool) -> None:
    assert may_be_called(header, names_of("127.0.0.1"), any_address=False) is local
    assert may_be_called(header, names_of("0.0.0.0"), any_address=True) is open_to_all  # noqa: S104


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
def test_methods_that_may_change_something_are_refused(method: str) -> None:
    app = Starlette(routes=[Route("/", lambda request: PlainTextResponse("text"), methods=["GET", method])])
    client = TestClient(Guard(app, host="127.0.0.1"), base_url="http://127.0.0.1")
    answer = client.request(method, "/", headers={"Origin": "http://evil.example"})
    assert answer.status_code == 405 and answer.headers["allow"] == "GET, HEAD"
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert client.get("/").text == "text"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-9", (0, 10)),
        ("bytes=90-", (90, 100)),
        ("bytes=90-1000", (90, 100)),
        ("bytes=-10", (90, 100)),
        ("bytes=-1000", (0, 100)),
        ("bytes=0-0", (0, 1)),
        ("bytes=0-4, 8-9", None),
        ("bytes=9-4", None),
        ("bytes=-", None),
        ("lines=0-4", None),
        ("bytes=a-b", None),
    ],
)
def test_a_range_is_bytes_of_the_file_or_all_of_it(header: str, expected: tuple[int, int] | None) -> None:
    assert parse_range(header, 100) == expected


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=100-200", "bytes=-0"])
def test_a_range_behind_the_end_is_an_error(header: str) -> None:
    with pytest.raises(UnsatisfiableRangeError, match="100 bytes"):
        parse_range(header, 100)


def test_many_steps_are_kept_in_few_bins_that_lose_no_spike() -> None:
    rows, num = BinnedRows(), 20 * MAX_BINS + 17
    values = np.sin(np.arange(num) / 500.0)
    values[12345] = 99.0
    rows.add({"step": step, "a": float(value)} for step, value in enumerate(values))
    metric = rows.metrics["a"]
    x, y = metric.means()
    assert len(x) <= MAX_BINS and metric.width == 32 and rows.last_step == num - 1
    assert metric.extremes()[1].max() == 99.0 and metric.extremes()[1].min() == values.min()
    assert y[0] == pytest.approx(values[:32].mean()) and x[0] == 15.5


def test_rows_of_a_run_at_work_follow_the_committed_ones_and_do_not_stay() -> None:
    rows = BinnedRows()
    rows.add([{"step": 1, "a": 1.0}, {"step": 2, "a": 2.0}, {"step": 3, "a": float("inf")}, {"a": 7.0}])
    more = rows.with_rows([{"step": 3, "a": 9.0}, {"step": 4, "a": 4.0}])
    assert more.metrics["a"].means()[1].tolist() == [1.0, 2.0, 4.0] and more.last_step == 4
    assert rows.metrics["a"].means()[1].tolist() == [1.0, 2.0]


def test_a_flood_of_connections_is_one_line_a_minute(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(server.time, "monotonic", lambda: clock[0])
    lines = server.Lines(logging.WARNING)
    for _ in range(500):
        lines.handle(logging.makeLogRecord({"msg": "Exceeded concurrency limit.", "levelno": logging.WARNING}))
    lines.handle(logging.makeLogRecord({"msg": "Invalid HTTP request received.", "levelno": logging.WARNING}))
    clock[0] += 61
    lines.handle(logging.makeLogRecord({"msg": "Exceeded concurrency limit.", "levelno": logging.WARNING}))
    assert [record.getMessage() for record in caplog.records] == [
        "the page's server: Exceeded concurrency limit.",
        "the page's server: Invalid HTTP request received.",
        "the page's server: Exceeded concurrency limit. (499 more like it since the last line)",
    ]


@pytest.mark.parametrize(
    "last",
    [
        '{"step": 40001, "a": 1.5, "b": 2}',
        '{"step": 40001, "a": NaN}',
        '{"step": 40001, "a": -Infinity, "c": 3}',
        '{"step": 40001.0, "a": 1}',
        '{"a": 1}',
        '{"step": 40001, "a": nu',  # cut off by a kill
    ],
)
def test_a_long_segment_read_as_columns_has_the_same_numbers(last: str) -> None:
    lines = [{"step": step, "a": step / 7, **({"e": 0.5} if step % 100 == 0 else {})} for step in range(40000)]
    data = "".join(json.dumps(line) + "\n" for line in lines) + last + ("" if last.endswith("nu") else "\n")
    fast, slow = BinnedRows(), BinnedRows()
    fast.add_segment(data.encode())
    slow.add(parse_rows(data.encode()))
    assert (fast.num_rows, fast.last_step, fast.metrics.keys()) == (slow.num_rows, slow.last_step, slow.metrics.keys())
    for name, metric in fast.metrics.items():
        for one, other in zip(metric.extremes(), slow.metrics[name].extremes(), strict=True):
            assert one.tolist() == other.tolist()
