"""A small Hugging Face hub on the loopback, with the real one's addresses, headers and refusals, and faults on demand."""

import hashlib
import json
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

LFS_SUFFIXES = (".mp4", ".mov", ".safetensors")


class HubServer:
    """Repositories in memory, `publish`ed commit by commit. Attributes may be changed at any time."""

    def __init__(self) -> None:
        self.endpoint = ""
        self.requests: list[str] = []  # "GET /path", and " Range" after it when a part was asked for
        self.token: str | None = None  # who does not send it sees no repository
        self.gated = False  # files may be listed and not read
        self.page_size = 1000  # entries of a tree per answer
        self.cut: set[str] = set()  # paths whose next body ends in the middle
        self.damaged: set[str] = set()  # paths served with one bit flipped
        self.failures: list[int] = []  # statuses of the next answers, whatever is asked
        self.extra_paths: list[str] = []  # listed, and not there
        self._refs: dict[tuple[str, str], str] = {}  # ("datasets/owner/name", "main") -> commit
        self._commits: dict[tuple[str, str], dict[str, bytes]] = {}

    def publish(self, repo: str, files: Mapping[str, bytes], *, branch: str = "main") -> str:
        """Make a commit the branch of "datasets/owner/name" or "models/owner/name", and return it."""
        commit = hashlib.sha1(json.dumps([repo, sorted((p, d.hex()) for p, d in files.items())]).encode()).hexdigest()
        self._commits[repo, commit] = dict(files)
        self._refs[repo, branch] = commit
        return commit

    def count(self, start: str) -> int:
        """Return how many requests began so."""
        return sum(request.startswith(start) for request in self.requests)

    def find(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        commit = self._refs.get((repo, revision), revision)
        files = self._commits.get((repo, commit))
        return None if files is None else (commit, files)

    def has(self, repo: str) -> bool:
        return any(name == repo for name, _ in self._commits)

    def __enter__(self) -> Self:
        hub = self

        class Handler(_Handler):
            server_hub = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
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
        path = unquote(url.path)
        hub.requests.append(f"{self.command} {path}" + (" Range" if self.headers.get("Range") else ""))
        if hub.failures:
            return self._answer(hub.failures.pop(0))
        parts = path.strip("/").split("/")
        if parts[0] == "api" and parts[1] in ("datasets", "models") and len(parts) >= 6:
            repo, verb, revision, rest = "/".join(parts[1:4]), parts[4], parts[5], parts[6:]
        else:
            parts = parts if parts[0] == "datasets" else ["models", *parts]
            repo, verb, revision, rest = "/".join(parts[:3]), parts[3] if len(parts) > 4 else "", parts[-1], parts[5:]
            revision = parts[4] if verb else ""
        if verb not in ("revision", "tree", "resolve"):
            return self._answer(404)
        if not hub.has(repo) or (hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}"):
            return self._answer(401, {"X-Error-Code": "RepoNotFound"})
        found = hub.find(repo, revision)
        if found is None:
            return self._answer(404, {"X-Error-Code": "RevisionNotFound"})
        commit, files = found
        if verb == "revision":
            return self._json({"id": repo.partition("/")[2], "sha": commit, "siblings": [], "tags": []})
        if verb == "tree":
            return self._tree(files, parse_qs(url.query))
        return self._file(commit, "/".join(rest), files)

    def _tree(self, files: dict[str, bytes], query: dict[str, list[str]]) -> None:
        hub = self.server_hub
        entries = [entry(path, data) for path, data in files.items()] + [entry(path, b"") for path in hub.extra_paths]
        folders = {path.rpartition("/")[0] for path in files} - {""}
        entries += [{"type": "directory", "path": path, "size": 0, "oid": "0" * 40} for path in sorted(folders)]
        start = int(query.get("cursor", ["0"])[0])
        end = start + hub.page_size
        more = f"<{hub.endpoint}{urlsplit(self.path).path}?recursive=True&cursor={end}>; rel=\"next\""
        self._json(entries[start:end], {"Link": more} if end < len(entries) else {})

    def _file(self, commit: str, path: str, files: dict[str, bytes]) -> None:
        hub = self.server_hub
        if hub.gated:
            return self._answer(403, {"X-Error-Code": "GatedRepo"})
        if path not in files:
            return self._answer(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        data = files[path]
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
