"""One thread reads for all who look: how often, what each is told, and what they see while storage is away."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator

import pytest

from flows.web import root_reader
from flows.web.events import changes, have_of, stream
from flows.web.root_reader import MAX_WATCHERS, RootReader, TooManyWatchersError, Watcher
from sana.report.live.live_page import LivePage, Topic
from sana.store_errors import StoreAwayError

TOPIC = Topic("overview")

BROKEN = {"value": ValueError("no key"), "number": OverflowError("no date"), "deep": RecursionError("too deep")}


class Source:
    """A root whose content is `words`, and which may be away."""

    def __init__(self) -> None:
        self.words, self.is_away = "first", False
        self.page_is_away, self.slow_s = False, 0.0
        self.refreshed, self.made, self.threads = 0, 0, set[str]()

    def refresh(self) -> None:
        self.threads.add(threading.current_thread().name)
        self.refreshed += 1
        time.sleep(self.slow_s)
        if self.is_away:
            raise StoreAwayError("s3://b/x: no connection")

    def notice(self, trouble: str) -> str:
        return trouble

    def page(self, topic: Topic) -> LivePage:
        self.made += 1
        if self.page_is_away:
            raise StoreAwayError("s3://b/x: no answer")
        if topic.key == "missing":
            raise LookupError("there is none")
        if topic.key in BROKEN:
            raise BROKEN[topic.key]
        return LivePage("title", {"notice": "", "same": "same", "words": self.words})


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def reader(source: Source) -> Iterator[RootReader]:
    reading = RootReader(source, interval_s=0.05)
    reading.start()
    yield reading
    reading.close()


def wait_for(watcher: Watcher, words: str) -> LivePage:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if watcher.page is not None and words in "".join(watcher.page.parts.values()):
            return watcher.page
        time.sleep(0.01)
    raise AssertionError(f"no {words} but {watcher.page}")


def test_five_readers_read_storage_as_often_as_one(source: Source, reader: RootReader) -> None:
    woken: list[int] = []
    watchers = [Watcher(TOPIC, lambda place=place: woken.append(place)) for place in range(5)]
    for watcher in watchers:
        reader.watch(watcher)
    started, before = time.monotonic(), source.refreshed
    while time.monotonic() - started < 0.5:
        assert reader.get(TOPIC).parts["words"] == "first"
    most = (time.monotonic() - started) / 0.05 + 2
    assert source.refreshed - before <= most and source.made <= source.refreshed
    assert source.threads == {"root-reader"}
    assert sorted(woken) == [0, 1, 2, 3, 4]  # each once: nothing changed since
    source.words = "second"
    for watcher in watchers:
        wait_for(watcher, "second")
    assert sorted(woken) == sorted([0, 1, 2, 3, 4] * 2)


def test_nobody_looks_and_nothing_is_read(source: Source, reader: RootReader) -> None:
    watcher = Watcher(TOPIC, lambda: None)
    reader.watch(watcher)
    wait_for(watcher, "first")
    reader.forget(watcher)
    time.sleep(0.1)
    before = source.refreshed
    time.sleep(0.3)
    assert source.refreshed == before


def test_storage_that_goes_away_is_told_and_comes_back(source: Source, reader: RootReader) -> None:
    watcher = Watcher(TOPIC, lambda: None)
    reader.watch(watcher)
    wait_for(watcher, "first")
    source.is_away = True
    page = wait_for(watcher, "no connection")
    assert page.parts["notice"].startswith("Storage does not answer since ") and page.parts["words"] == "first"
    assert reader.get(TOPIC).parts["words"] == "first"
    source.is_away, source.words = False, "second"
    assert wait_for(watcher, "second").parts["notice"] == ""


@pytest.mark.parametrize("key", BROKEN)
def test_a_page_that_breaks_is_told_to_its_reader_and_the_others_go_on(reader: RootReader, key: str) -> None:
    with pytest.raises(type(BROKEN[key])):
        reader.get(Topic("run", key), timeout_s=5.0)
    assert reader.get(TOPIC, timeout_s=5.0).parts["words"] == "first"


def test_a_page_that_cannot_be_read_again_stays_and_says_so(source: Source, reader: RootReader) -> None:
    watcher = Watcher(TOPIC, lambda: None)
    reader.watch(watcher)
    wait_for(watcher, "first")
    source.page_is_away = True
    assert wait_for(watcher, "no answer").parts["words"] == "first"
    with pytest.raises(StoreAwayError):
        reader.get(Topic("runs"))


def test_while_storage_is_slow_a_page_that_there_is_is_shown(
    source: Source, reader: RootReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(root_reader, "PATIENCE_S", 0.05)
    reader.get(TOPIC)
    time.sleep(0.1)
    source.slow_s, source.words = 1.0, "second"
    started = time.monotonic()
    old = reader.get(TOPIC).parts
    assert old["words"] == "first" and "storage is slow to answer" in old["notice"]
    assert time.monotonic() - started < 0.9
    assert reader.get(Topic("runs")).parts["words"] == "second"


def test_what_does_not_exist_is_an_error_of_the_asker_alone(reader: RootReader) -> None:
    with pytest.raises(LookupError, match="there is none"):
        reader.get(Topic("training", "missing"))
    assert reader.get(TOPIC).parts["words"] == "first"


def test_more_pages_than_are_kept_up_to_date_are_an_error(reader: RootReader) -> None:
    for _ in range(MAX_WATCHERS):
        reader.watch(Watcher(TOPIC, lambda: None))
    with pytest.raises(TooManyWatchersError, match="close some"):
        reader.watch(Watcher(TOPIC, lambda: None))


def test_a_stream_sends_what_changed_and_ends_with_the_reader(source: Source) -> None:
    reader = RootReader(source, interval_s=0.05)
    reader.start()
    have = LivePage("title", {"notice": "", "same": "same"}).digests

    async def listen() -> list[bytes]:
        found: list[bytes] = []
        async for event in stream(reader, TOPIC, have):
            found.append(event)
            if len(found) == 2:
                source.words = "second"
            if len(found) == 3:
                await asyncio.to_thread(reader.close)
        return found

    first, *events = asyncio.run(asyncio.wait_for(listen(), 10))
    assert first.startswith(b"retry: ")
    told = [json.loads(event.partition(b"data: ")[2]) for event in events]
    assert [(one["part"], one["html"]) for one in told] == [("words", "first"), ("words", "second")]
    again = have_of(events[-1].partition(b"id: ")[2].partition(b"\n")[0].decode())
    assert changes(LivePage("title", {"notice": "", "same": "same", "words": "second"}), again) == []


@pytest.mark.parametrize("text", ["", "x", ",,", ":", "a:b:c,d", "a" * 100_000])
def test_what_a_reader_says_it_has_is_never_an_error(text: str) -> None:
    assert len(have_of(text)) <= 1
