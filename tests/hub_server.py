"""A small Hugging Face hub on the loopback: the real one's addresses, headers and rejections, and faults on demand."""

import hashlib
import json
import re
import threading
from collections.abc import Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

LFS_SUFFIXES = (".mp4", ".mov", ".safetensors")
_API = re.compile(r"/api/(datasets|models)/([^/]+/[^/]+)/(revision|tree)/([^/]+)()")
_FILE = re.compile(r"/(?:(datasets)/)?([^/]+/[^/]+)/(resolve)/([^/]+)/(.+)")


class HubServer:
    """Repositories in memory, `publish`ed commit by commit. Attributes may be changed at any time."""

    def __init__(self) -> None:
        self.endpoint = ""
        self.requests: list[str] = []  # "GET /path", and " Range" after it when a part was asked for
        self.token: str | None = None  # requests without it see no repository
        self.gated = False  # files may be listed and not read
        self.page_size = 1000  # entries of a tree per answer
        self.cut: set[str] = set()  # paths whose next body ends in the middle
        self.stalled: set[str] = set()  # paths whose next body stops in the middle, and stays open
        self.ranges: dict[str, list[int]] = {}  # first byte of each answer, by path
        self.damaged: set[str] = set()  # paths served with one bit flipped
        self.failures: list[int] = []  # statuses of the next answers, to any request
        self.extra_paths: list[str] = []  # listed, but missing
        self._refs: dict[tuple[str, str], str] = {}  # ("datasets/owner/name", "main") -> commit
        self._commits: dict[tuple[str, str], dict[str, bytes]] = {}

    def publish(self, repo: str, files: Mapping[str, bytes], *, branch: str = "main") -> str:
        """Make a commit the branch of "datasets/owner/name" or "models/owner/name", and return it."""
        commit = hashlib.sha1(json.dumps([repo, sorted((p, d.hex()) for p, d in files.items())]).encode()).hexdigest()
        self._commits[repo, commit] = dict(files)
        self._refs[repo, branch] = commit
        return commit

    def count(self, start: str) -> int:
        """Return how many requests began with `start`."""
        return sum(request.startswith(start) for request in self.requests)

    def find(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        commit = self._refs.get((repo, revision), revision)
        files = self._commits.get((repo, commit))
        return None if files is None else (commit, files)

    def has(self, repo: str) -> bool:
        return any(name == repo for name, _ in self._commits)

    def handler(self) -> "type[_Handler]":
        """The class that answers requests."""
        return _Handler

    def __enter__(self) -> Self:
        handler = type("Handler", (self.handler(),), {"server_hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def entry(path: str, data: bytes) -> dict[str, Any]:
    """One file as the tree API shows it."""
    if not path.endswith(LFS_SUFFIXES):
        return {"type": "file", "path": path, "size": len(data), "oid": git_blob(data)}
    sha256 = hashlib.sha256(data).hexdigest()
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {len(data)}\n".encode()
    lfs = {"oid": sha256, "size": len(data), "pointerSize": len(pointer)}
    return {"type": "file", "path": path, "size": len(data), "oid": git_blob(pointer), "lfs": lfs}


def git_blob(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    server_hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub, url = self.server_hub, urlsplit(self.path)
        part = " Range" if self.headers.get("Range") else ""
        hub.requests.append(f"{self.command} {unquote(url.path)}{part}")
        asked = _API.fullmatch(url.path) or _FILE.fullmatch(url.path)
        if hub.failures:
            self._answer(hub.failures.pop(0))
        elif asked is None:
            self._answer(404)
        else:
            kind, name, verb, revision, rest = (unquote(group or "") for group in asked.groups())
            self._answer_of(f"{kind or 'models'}/{name}", verb, revision, rest)

    def _answer_of(self, repo: str, verb: str, revision: str, path: str) -> None:
        hub = self.server_hub
        found = hub.find(repo, revision)
        if not hub.has(repo) or (hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}"):
            self._answer(401, {"X-Error-Code": "RepoNotFound"})
        elif found is None:
            self._answer(404, {"X-Error-Code": "RevisionNotFound"})
        elif verb == "revision":
            self._json({"id": repo.partition("/")[2], "sha": found[0], "siblings": [], "tags": []})
        elif verb == "tree":
            self._tree(found[1])
        elif hub.gated:
            self._answer(403, {"X-Error-Code": "GatedRepo"})
        elif path not in found[1]:
            self._answer(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": found[0]})
        else:
            self._file(found[0], path, found[1][path])

    def _tree(self, files: dict[str, bytes]) -> None:
        hub, url = self.server_hub, urlsplit(self.path)
        entries = [entry(path, data) for path, data in files.items()] + [entry(path, b"") for path in hub.extra_paths]
        folders = {path.rpartition("/")[0] for path in files} - {""}
        entries += [{"type": "directory", "path": path, "size": 0, "oid": "0" * 40} for path in sorted(folders)]
        start = int(parse_qs(url.query).get("cursor", ["0"])[0])
        end = start + hub.page_size
        more = f'<{hub.endpoint}{url.path}?recursive=True&cursor={end}>; rel="next"'
        self._json(entries[start:end], {"Link": more} if end < len(entries) else {})

    def _file(self, commit: str, path: str, data: bytes) -> None:
        hub = self.server_hub
        shown = entry(path, data)
        etag = shown["lfs"]["oid"] if "lfs" in shown else shown["oid"]
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if "lfs" in shown:
            headers |= {"X-Linked-Size": str(len(data)), "X-Linked-ETag": f'"{etag}"'}
        if path in hub.damaged:
            data = data[:-1] + bytes([data[-1] ^ 1])
        status, wanted = 200, self.headers.get("Range")
        if wanted:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            end = int(last) if last else len(data) - 1
            headers["Content-Range"] = f"bytes {first}-{end}/{len(data)}"
            status, data = 206, data[int(first) : end + 1]
        if self.command == "GET":
            hub.ranges.setdefault(path, []).append(int(first) if wanted else 0)
        if path in hub.stalled and self.command == "GET":
            hub.stalled.discard(path)
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])
            with suppress(OSError):
                self.connection.recv(1)  # until the client disconnects
            self.close_connection = True
            return
        self._answer(status, headers, data, cut=path in hub.cut and self.command == "GET")
        if self.command == "GET":
            hub.cut.discard(path)

    def _json(self, value: object, headers: Mapping[str, str] | None = None) -> None:
        self._answer(200, {"Content-Type": "application/json", **(headers or {})}, json.dumps(value).encode())

    def _answer(
        self, status: int, headers: Mapping[str, str] | None = None, data: bytes = b"", *, cut: bool = False
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data[: len(data) // 2] if cut else data)
        if cut:
            self.close_connection = True
