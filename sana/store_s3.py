"""The S3 side of the store: conditional PUTs, range GETs, uncached listings. The one module that imports s3fs."""

import errno
import os
import random
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sana.atomic_io import TEMP_PREFIX, atomic_write
from sana.store import Block, Entries, Entry, Listing, Names, byte_view, check_key, put_and_delete_test_object
from sana.store_errors import TRUNCATED, StoreError, clear_errors, error_code, http_status

_T = TypeVar("_T")
# A stall of 10 s is waited out; a server that never answers is given up after S3_TRIES times READ_TIMEOUT_S.
CONNECT_TIMEOUT_S, READ_TIMEOUT_S, FIRST_ANSWER_S, S3_TRIES = 5, 20, 10, 7
BODY_TRIES = 5  # botocore does not retry a body that breaks off
S3_CONCURRENCY = 4  # parts in flight per large object; each holds 50 MB of memory
BLOCK_BYTES = 32 * 2**20  # of a large object that is fetched: what a broken connection costs
CONFLICT_WAITS_S = (0.2, 0.4, 0.8, 1.6)  # S3's 409: another conditional write of this key is under way


@dataclass(frozen=True)
class ObjectInfo:
    """What S3 lists of an object; the ETag, without its quotes, changes with the content."""

    key: str
    num_bytes: int
    etag: str
    modified_at: float = 0.0  # Unix time, seconds


class S3Store:
    """A prefix in a bucket, through s3fs; credentials and endpoint by the ordinary AWS chain.

    s3fs is not fork-safe: open the store in the process that uses it (spawned processes and threads are fine).
    """

    is_local = False

    def __init__(self, root: str) -> None:
        import s3fs  # a second to import: only for those who use S3
        from aiobotocore.response import AioReadTimeoutError
        from aiohttp import ClientError as HttpError
        from aiohttp import ClientPayloadError
        from botocore.exceptions import BotoCoreError, ClientError, IncompleteReadError

        self._bucket, _, prefix = root.removeprefix("s3://").rstrip("/").partition("/")
        if not self._bucket:
            raise ValueError(f"{root!r} names no bucket: s3://bucket/prefix is needed")
        self._prefix = f"{check_s3_key(prefix)}/" if prefix else ""
        self.root = f"s3://{self._bucket}/{self._prefix}".rstrip("/")
        self._errors = (OSError, BotoCoreError, ClientError, HttpError)
        self._broken_body = (ClientPayloadError, AioReadTimeoutError, IncompleteReadError)
        self._fs = s3fs.S3FileSystem(
            skip_instance_cache=True,
            use_listings_cache=False,  # it never expires
            max_concurrency=S3_CONCURRENCY,
            config_kwargs={
                "connect_timeout": CONNECT_TIMEOUT_S,
                "read_timeout": READ_TIMEOUT_S,
                "retries": {"mode": "standard", "max_attempts": S3_TRIES},
            },
        )
        self._fs.retries = 1  # botocore tries again, with jitter; a second loop around it would multiply the waits
        try:
            with self._clear_errors(self.root):  # botocore alone would try a dead endpoint for half a minute
                self._call("list_objects_v2", Prefix=self._prefix, MaxKeys=1, timeout=FIRST_ANSWER_S)
        except FileNotFoundError as error:
            raise StoreError(f"{root}: the endpoint is no S3 server (404): check AWS_ENDPOINT_URL") from error

    def _call(self, method: str, **kwargs: Any) -> Any:
        return self._fs.call_s3(method, Bucket=self._bucket, **kwargs)

    def _clear_errors(self, uri: str, note: str = "") -> AbstractContextManager[None]:
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "AWS"
        return clear_errors(uri, *self._errors, note=f"{note} at {endpoint}")

    def _retry_broken_body(self, read: Callable[[], _T]) -> _T:
        """Read again, after 0.1 to 1.6 s with jitter, when a body breaks off: reset, too short, or timed out."""
        for number in range(BODY_TRIES - 1):
            try:
                return read()
            except self._broken_body:
                time.sleep(random.uniform(0.5, 1.0) * 0.2 * 2**number)  # noqa: S311 - no secret
        return read()

    def uri(self, key: str) -> str:
        return f"{self.root}/{check_s3_key(key)}"

    def local_path(self, key: str) -> None:
        check_key(key)

    def exists(self, key: str) -> bool:
        try:
            self.size(key)
        except FileNotFoundError:
            return False
        return True

    def size(self, key: str) -> int:
        return self.info(key).num_bytes

    def info(self, key: str) -> ObjectInfo:
        with self._clear_errors(self.uri(key)):
            head = self._call("head_object", Key=self._prefix + key)
        return ObjectInfo(key, int(head["ContentLength"]), head["ETag"].strip('"'), head["LastModified"].timestamp())

    def read(self, key: str) -> bytes:
        with self._clear_errors(self.uri(key)):
            # more than one at once would ask for the size first
            return bytes(self._retry_broken_body(lambda: self._fs.cat_file(self.uri(key), max_concurrency=1)))

    def read_range(self, key: str, start: int, length: int) -> bytes:
        if start < 0 or length < 0:  # HTTP would read from the end
            raise ValueError(f"{self.uri(key)}: range {start} + {length} is negative")
        if length == 0:  # not a range in HTTP
            self.size(key)
            return b""
        with self._clear_errors(self.uri(key)):
            end = start + length
            data = bytes(self._retry_broken_body(lambda: self._fs.cat_file(self.uri(key), start=start, end=end)))
        if len(data) != length:
            raise StoreError(f"{self.uri(key)}: {TRUNCATED} (got {len(data)} of {length} from byte {start})")
        return data

    def read_into(self, key: str, start: int, buffer: memoryview) -> None:
        buffer = byte_view(start, buffer)
        buffer[:] = self.read_range(key, start, len(buffer))

    def put_if_absent(self, key: str, data: bytes) -> bool:
        return self._create(key, lambda mark: self._fs.pipe_file(self.uri(key), data, mode="create", Metadata=mark))

    def put_file_if_absent(self, key: str, path: Path) -> bool:
        path.stat()  # a missing source must not be reported as a missing object
        return self._create(key, lambda mark: self._fs.put_file(str(path), self.uri(key), mode="create", Metadata=mark))

    def put_blocks_if_absent(self, key: str, blocks: Iterable[Block], *, staging: Path) -> bool:
        staging.mkdir(parents=True, exist_ok=True)
        path = staging / f"{TEMP_PREFIX}{uuid.uuid4().hex}"
        try:
            with path.open("xb") as file:
                file.writelines(blocks)
            return self.put_file_if_absent(key, path)
        finally:
            path.unlink(missing_ok=True)

    def link_if_absent(self, key: str, existing: str) -> bool:
        check_s3_key(key), check_s3_key(existing)
        return False

    def _create(self, key: str, send: Callable[[dict[str, str]], object]) -> bool:
        """Send one conditional PUT, or a multi-part upload with the condition at its completion (from 100 MB).

        A request whose answer was lost is sent again (by botocore, or unseen by aiohttp) and finds what it did the
        first time. So each put carries a mark, and one that was refused looks whose mark the object has.
        """
        waits_s = iter(CONFLICT_WAITS_S)
        mark = {"put": uuid.uuid4().hex}
        with self._clear_errors(self.uri(key)):
            while True:
                try:
                    send(mark)
                    return True
                except OSError as error:
                    status = http_status(error)
                    wait_s = next(waits_s, None)
                    if status == 412 or (error_code(error) == "NoSuchUpload" and self.exists(key)):
                        return bool(self._call("head_object", Key=self._prefix + key).get("Metadata") == mark)
                    if status != 409 or wait_s is None:
                        raise
                time.sleep(wait_s)

    def list(self, prefix: str) -> Listing:
        return sorted((found.key, found.num_bytes) for found in self.iter_objects(prefix))

    def iter_objects(self, prefix: str) -> Iterator[ObjectInfo]:  # with ETags, page by page: for sources of videos
        for page in self._pages(prefix):
            for found in page.get("Contents", []):
                if not found["Key"].rpartition("/")[2].startswith(TEMP_PREFIX):
                    key, modified_at = found["Key"].removeprefix(self._prefix), found["LastModified"].timestamp()
                    yield ObjectInfo(key, found["Size"], found["ETag"].strip('"'), modified_at)

    def list_entries(self, prefix: str) -> Entries:
        return sorted(Entry(found.key, found.num_bytes, found.modified_at) for found in self.iter_objects(prefix))

    def incomplete_uploads(self, *, older_than_s: float, delete: bool) -> Entries:
        before = time.time() - older_than_s
        with self._clear_errors(self.root):
            uploads = self._call("list_multipart_uploads", Prefix=self._prefix).get("Uploads", [])
            old = [upload for upload in uploads if upload["Initiated"].timestamp() < before]
            for upload in old if delete else []:
                self._call("abort_multipart_upload", Key=upload["Key"], UploadId=upload["UploadId"])
        return [Entry(up["Key"].removeprefix(self._prefix), 0, up["Initiated"].timestamp()) for up in old]

    def list_dirs(self, prefix: str) -> Names:
        pages = self._pages(prefix, Delimiter="/")
        return sorted(d["Prefix"].split("/")[-2] for page in pages for d in page.get("CommonPrefixes", []))

    def _pages(self, prefix: str, **kwargs: str) -> Iterator[dict[str, Any]]:
        folder = self._prefix + (check_key(prefix.removesuffix("/")) + "/" if prefix else "")
        token: dict[str, str] | None = {}
        while token is not None:
            with self._clear_errors(f"s3://{self._bucket}/{folder}"):
                page = self._call("list_objects_v2", Prefix=folder, **kwargs, **token)
            yield page
            token = {"ContinuationToken": page["NextContinuationToken"]} if page.get("IsTruncated") else None

    def delete(self, key: str) -> None:
        with self._clear_errors(self.uri(key)):
            self._call("delete_object", Key=self._prefix + key)

    def fetch(self, key: str, path: Path) -> None:
        with self._clear_errors(self.uri(key), note=f" -> {path}"), atomic_write(path) as temp, temp.open("wb") as file:
            before = self.info(key)
            starts = range(0, before.num_bytes, BLOCK_BYTES)

            def copy(start: int) -> None:
                data = self.read_range(key, start, min(BLOCK_BYTES, before.num_bytes - start))
                if os.pwrite(file.fileno(), data, start) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            with ThreadPoolExecutor(S3_CONCURRENCY) as workers:
                for _ in workers.map(copy, starts):
                    pass
            if len(starts) > 1 and self.info(key).etag != before.etag:
                raise StoreError(f"{self.uri(key)} was replaced while it was read; run again")

    def check_writable(self) -> None:
        put_and_delete_test_object(self)

    def free_bytes(self) -> int | None:
        return None


def check_s3_key(key: str) -> str:
    """Return the key if it is a name inside the root. Raises ValueError if not, or if s3fs would cut it."""
    if "?versionId=" in key:
        raise ValueError(
            f"key {key!r} holds ?versionId=, after which S3 clients look for the version of another object"
        )
    return check_key(key)
