"""The live page as an application: addresses, what they show, and what they say when there is nothing."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from anyio import to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from flows.web.documents import OWN, Documents
from flows.web.events import have_of, stream
from flows.web.files import file_response
from flows.web.guard import DOCUMENT_POLICY, Guard
from flows.web.root_reader import RootReader, TooManyWatchersError
from sana.artifact import FileInfo
from sana.errors import SanaError
from sana.report.live import pages
from sana.report.live.live_page import Kind, Topic
from sana.report.live.source import LiveRoot
from sana.store_errors import StoreError

_log = logging.getLogger(__name__)

_STATIC = {"live.css": "text/css; charset=utf-8", "live.js": "text/javascript; charset=utf-8"}
_KINDS: dict[str, Kind] = {
    "overview": "overview",
    "runs": "runs",
    "run": "run",
    "training": "training",
    "compare": "compare",
}
MAX_CHOICE_CHARS = 200  # of a value in a query string


class LiveApp:
    """The routes over one root."""

    def __init__(self, root: LiveRoot, reader: RootReader, documents: Documents) -> None:
        self._root, self._reader, self._documents = root, reader, documents

    def asgi(self, *, host: str) -> Guard:
        """Return the application, guarded as one that listens on `host`."""
        routes = [
            Route("/", self._page("overview")),
            Route("/runs", self._page("runs")),
            Route("/run/{key}", self._page("run")),
            Route("/compare", self._page("compare")),
            Route("/comparison", self._comparison),
            Route("/training/{key}", self._page("training")),
            Route("/file/{stage}/{fingerprint}/{digest}/{name:path}", self._file),
            Route("/validation/{trajectory}/{step}/{settings}/{digest}/{name}", self._validation_file),
            Route("/data", self._data),
            Route("/data/{key}", self._data),
            Route("/report/{key}", self._report),
            Route("/events", self._events),
            Route("/static/{name}", self._static),
            Route("/health", self._health),
        ]
        handlers: dict[Any, Callable[[Request, Exception], Awaitable[Response]]] = {
            HTTPException: self._http_error,
            SanaError: self._refused,
            StoreError: self._unavailable,
            TooManyWatchersError: self._unavailable,
            OSError: self._unavailable,
            TimeoutError: self._unavailable,
            LookupError: self._missing,
            Exception: self._broken,
        }
        return Guard(Starlette(routes=routes, exception_handlers=handlers), host=host)

    def _page(self, kind: Kind) -> Callable[[Request], Awaitable[Response]]:
        async def show(request: Request) -> Response:
            topic = _topic(kind, request)
            page = await to_thread.run_sync(self._reader.get, topic)
            return HTMLResponse(pages.document(page, topic, self._root.about))

        return show

    async def _file(self, request: Request) -> Response:
        asked = request.path_params
        place = (asked["stage"], asked["fingerprint"], asked["name"])
        file = await to_thread.run_sync(self._root.artifact_file, *place)
        return await self._found(request, file)

    async def _validation_file(self, request: Request) -> Response:
        asked = request.path_params
        place = (asked["trajectory"], asked["step"], asked["settings"], asked["name"])
        file = await to_thread.run_sync(self._root.validation_file, *place)
        return await self._found(request, file)

    async def _found(self, request: Request, file: FileInfo) -> Response:
        if not file.digest.startswith(request.path_params["digest"]):
            raise LookupError("the file has changed since that page was made: open the page again")
        return await file_response(request, self._root.store, file)

    async def _comparison(self, request: Request) -> Response:
        a, b = (request.query_params.get(side, "")[:MAX_CHOICE_CHARS] for side in ("a", "b"))
        return await _whole(self._documents.comparison, a, b)

    async def _data(self, request: Request) -> Response:
        return await _whole(self._documents.data, request.path_params.get("key", OWN)[:MAX_CHOICE_CHARS])

    async def _report(self, request: Request) -> Response:
        return await _whole(self._documents.report, request.path_params["key"][:MAX_CHOICE_CHARS])

    async def _events(self, request: Request) -> Response:
        choices = dict(request.query_params)
        kind = _KINDS.get(choices.pop("page", ""))
        if kind is None:
            raise LookupError("there is no page of that kind")
        key, have = choices.pop("key", "")[:MAX_CHOICE_CHARS], choices.pop("have", "")
        topic = Topic(kind, key, _choices(choices))
        known = have_of(request.headers.get("last-event-id") or have)
        if request.method == "HEAD":
            return Response(media_type="text/event-stream")
        self._reader.check_room()  # while it can still be answered that there is none
        return StreamingResponse(
            stream(self._reader, topic, known),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )

    async def _static(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in _STATIC:
            raise HTTPException(404)
        return Response(pages.static(name), media_type=_STATIC[name], headers={"Cache-Control": "no-cache"})

    async def _health(self, request: Request) -> Response:  # noqa: ARG002 - starlette calls it
        return PlainTextResponse("ok")

    async def _http_error(self, request: Request, error: Exception) -> Response:  # noqa: ARG002
        status = error.status_code if isinstance(error, HTTPException) else 500
        return self._message("Not found", "There is no page at this address.", status)

    async def _missing(self, request: Request, error: Exception) -> Response:  # noqa: ARG002
        return self._message("Not found", f"{error.args[0] if error.args else error}", 404)

    async def _refused(self, request: Request, error: Exception) -> Response:  # noqa: ARG002
        return self._message("This cannot be shown", f"{error}", 404)

    async def _unavailable(self, request: Request, error: Exception) -> Response:  # noqa: ARG002
        words = f"{error}" or "it takes too long: is storage slow, or the machine very busy?"
        if isinstance(error, FileNotFoundError):
            return self._message("Not found", words, 404)
        return self._message("This cannot be shown now", words, 503)

    async def _broken(self, request: Request, error: Exception) -> Response:
        _log.error("no answer to %s", request.url.path, exc_info=error)
        return self._message("This page is broken", "That is a mistake of ours; the terminal says more.", 500)

    def _message(self, title: str, words: str, status: int) -> Response:
        return HTMLResponse(pages.message(title, words, self._root.about), status)


async def _whole(make: Callable[..., str], *names: str) -> Response:
    """Answer with a page that loads nothing, and may not."""
    text = await to_thread.run_sync(make, *names)
    return HTMLResponse(text, headers={"Content-Security-Policy": DOCUMENT_POLICY})


def _topic(kind: Kind, request: Request) -> Topic:
    return Topic(kind, request.path_params.get("key", "")[:MAX_CHOICE_CHARS], _choices(dict(request.query_params)))


def _choices(query: dict[str, str]) -> tuple[tuple[str, str], ...]:
    """Return the choices of a query string that pages know, so that others make no page of their own."""
    known = ("find", "sort", "order", "state", "page", "a", "b")
    return tuple((name, query[name][:MAX_CHOICE_CHARS]) for name in known if query.get(name))
