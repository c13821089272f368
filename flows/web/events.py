"""Server-sent events: what changed of a page, as `part` events that hold the markup of one part each.

A reader names what it has, in `have` of the first request and in Last-Event-ID when it connects again; it is sent the
rest. One who reads slowly misses what was replaced meanwhile, and is sent the newest.
"""

import asyncio
import json
from collections.abc import AsyncIterator

from flows.web.root_reader import RootReader, TooManyWatchersError, Watcher
from sana.report.live.live_page import LivePage, Topic

KEEP_ALIVE_S = 20.0  # a comment, by which a connection that is gone is noticed
RETRY_MS = 3000
MAX_HAVE_CHARS = 4000


def have_of(text: str) -> dict[str, str]:
    """Read "part:digest,part:digest"; what is not of that form is passed over."""
    pairs = (item.partition(":") for item in text[:MAX_HAVE_CHARS].split(","))
    return {name: digest for name, colon, digest in pairs if colon}


async def stream(reader: RootReader, topic: Topic, have: dict[str, str]) -> AsyncIterator[bytes]:
    """Yield what is new of a page until the server closes or, as the reader goes, this is closed."""
    loop, woken = asyncio.get_running_loop(), asyncio.Event()

    def wake() -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(woken.set)

    watcher = Watcher(topic, wake)
    try:
        reader.watch(watcher)
    except TooManyWatchersError:  # the last place was taken while this answer began: the reader asks again
        return
    try:
        yield f"retry: {RETRY_MS}\n\n".encode()
        while not reader.is_closed:
            try:
                await asyncio.wait_for(woken.wait(), KEEP_ALIVE_S)
            except TimeoutError:
                yield b": here\n\n"
                continue
            woken.clear()
            if watcher.page is not None:
                for event in changes(watcher.page, have):
                    yield event
    finally:
        reader.forget(watcher)


def changes(page: LivePage, have: dict[str, str]) -> list[bytes]:
    """Return an event for each part that a reader does not have, and note in `have` that it does."""
    events = []
    for name, digest in page.digests.items():
        if have.get(name) != digest:
            have[name] = digest
            known = ",".join(f"{part}:{mark}" for part, mark in have.items())
            data = json.dumps({"part": name, "digest": digest, "html": page.parts[name]})
            events.append(f"event: part\nid: {known}\ndata: {data}\n\n".encode())
    return events
