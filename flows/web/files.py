"""Files of artifacts, sent in blocks and by range. What a URL names is looked up in a record; it is never a path."""

from collections.abc import AsyncIterator

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from flows.web.byte_ranges import UnsatisfiableRangeError, parse_range
from flows.web.guard import DOCUMENT_POLICY
from sana.artifact import FileInfo
from sana.store import Store

BLOCK_BYTES = 2**20  # of a bucket, where each block is a request
LOCAL_BLOCK_BYTES = 2**17  # of a disk: that is what each of 200 readers who read slowly holds some of
# what a browser may show; all else is text or a download: markup of others never runs as a page of this server
_SHOWN = {
    "mp4": "video/mp4",
    "png": "image/png",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "webp": "image/webp",
    "gif": "image/gif",
    "html": "text/html; charset=utf-8",
}
_TEXTS = ("json", "jsonl", "txt", "md", "yaml", "yml", "csv", "log")


async def file_response(request: Request, store: Store, file: FileInfo) -> Response:
    """Answer with a file of the store, or the range of it that was asked for.

    Its content never changes: its digest is in its address.

    Raises:
        FileNotFoundError, StoreError: it cannot be read.
    """
    etag = f'"{file.digest}"'
    headers = {
        "Accept-Ranges": "bytes",
        "ETag": etag,
        "Cache-Control": "private, max-age=86400, immutable",
        **_kind_of(file.key),
    }
    if etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    start, end, status = 0, file.num_bytes, 200
    asked = request.headers.get("range", "")
    if asked and request.headers.get("if-range", etag) == etag:
        try:
            found = parse_range(asked, file.num_bytes)
        except UnsatisfiableRangeError:
            size = {"Content-Range": f"bytes */{file.num_bytes}"}
            return PlainTextResponse("the file ends before that range\n", 416, size)
        if found is not None:
            (start, end), status = found, 206
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{file.num_bytes}"
    headers["Content-Length"] = str(end - start)
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers)
    first = await _block(store, file.key, start, end)  # while it can still be answered that there is none
    return StreamingResponse(_blocks(store, file.key, first, start, end), status, headers)


async def _blocks(store: Store, key: str, first: bytes, start: int, end: int) -> AsyncIterator[bytes]:
    yield first
    start += len(first)
    while start < end:
        block = await _block(store, key, start, end)
        yield block
        start += len(block)


async def _block(store: Store, key: str, start: int, end: int) -> bytes:
    most = LOCAL_BLOCK_BYTES if store.is_local else BLOCK_BYTES
    return await to_thread.run_sync(store.read_range, key, start, min(most, end - start))


def _kind_of(key: str) -> dict[str, str]:
    ending = key.rpartition(".")[2].lower()
    if ending in _SHOWN:
        kind = {"Content-Type": _SHOWN[ending]}
        return kind | {"Content-Security-Policy": DOCUMENT_POLICY} if ending == "html" else kind
    if ending in _TEXTS:
        return {"Content-Type": "text/plain; charset=utf-8"}
    return {"Content-Type": "application/octet-stream", "Content-Disposition": "attachment"}
