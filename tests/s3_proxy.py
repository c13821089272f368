"""A TCP proxy in front of a real S3 server that injects faults of networks and busy stores into chosen requests."""

import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Self

BLOCK_BYTES = 2**16
STALL_S = 10.0


class Fault(StrEnum):
    """What happens to one request."""

    INTERNAL = "500 InternalError"  # answered by the proxy; the server never sees it
    SLOW_DOWN = "503 SlowDown"
    EXPIRED = "400 ExpiredToken"
    FORBIDDEN = "403 AccessDenied"
    RESET = "reset before the answer"
    RESET_UPLOAD = "reset in the middle of the request's body"
    RESET_BODY = "reset in the middle of the answer's body"
    TRUNCATED = "connection closed in the middle of the answer's body"  # Content-Length is larger than what comes
    STALL = "nothing for 10 s, then the answer"
    STALL_BODY = "half of the answer's body, nothing for 10 s, then the rest"
    LOST_REPLY = "done by the server, but the answer is lost"


@dataclass(frozen=True)
class Request:
    """What a policy decides on: `number` counts the requests of the proxy from 0."""

    number: int
    method: str
    path: str  # with the query


Policy = Callable[[Request], Fault | None]


def no_fault(request: Request) -> None:
    """A policy that injects nothing."""


class Outage:
    """A policy: from the first upload whose path contains `path` on, every request is reset for `seconds`."""

    def __init__(self, path: str, seconds: float) -> None:
        self.path, self.seconds = path, seconds
        self.began: float | None = None

    def is_on(self) -> bool:
        return self.began is not None and time.monotonic() < self.began + self.seconds

    def __call__(self, request: Request) -> Fault | None:
        if self.began is None and request.method == "PUT" and self.path in request.path:
            self.began = time.monotonic()
        return Fault.RESET if self.is_on() else None


class FaultyProxy:
    """Listens on the loopback, from `with` to its end; `policy` may be replaced at any time; `seen` is the log."""

    def __init__(self, upstream: str) -> None:
        host, _, port = upstream.removeprefix("http://").partition(":")
        self._upstream = (host, int(port))
        self.policy: Policy = no_fault
        self.seen: list[tuple[Request, Fault | None]] = []
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def faults(self) -> list[Fault]:
        """Return the faults that were injected so far, in order."""
        return [fault for _, fault in self.seen if fault]

    def inject(self, fault: Fault, *, method: str, times: int = 1, path: str = "") -> None:
        """Inject a fault into the next `times` requests of this method whose path contains `path`; clears `seen`."""
        left = [times]

        def policy(request: Request) -> Fault | None:
            if left[0] and request.method == method and path in request.path:
                left[0] -= 1
                return fault
            return None

        self.seen, self.policy = [], policy

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._listener.close()
        with self._lock:
            for connection in self._open:
                connection.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        """Answer the requests of one connection, each by a connection of its own to the server."""
        with self._lock:
            self._open.add(client)
        try:
            with client, client.makefile("rb") as requests:
                while head := _read_head(requests):
                    method, path, _ = head.split(b"\r\n", 1)[0].decode().split(" ", 2)
                    with self._lock:
                        request = Request(len(self.seen), method, path)
                        fault = self.policy(request)
                        self.seen.append((request, fault))
                    if not self._answer(client, requests, head, method, fault):
                        return
        except OSError:  # one side hung up
            pass
        finally:
            with self._lock:
                self._open.discard(client)

    def _answer(self, client: socket.socket, requests, head: bytes, method: str, fault: Fault | None) -> bool:
        """Forward one request and its answer; False when the connection is over."""
        if _header(head, b"expect"):  # the proxy says "100 Continue" itself, and asks the server for none
            head = b"\r\n".join(line for line in head.split(b"\r\n") if not line.lower().startswith(b"expect:"))
            client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        num_bytes = int(_header(head, b"content-length") or 0)
        assert not _header(head, b"transfer-encoding"), "chunked requests are not understood"
        if fault is Fault.RESET_UPLOAD:
            with socket.create_connection(self._upstream) as server:
                server.sendall(head + requests.read(num_bytes // 2))
                time.sleep(0.05)
                _reset(server)
            return _reset(client)
        body = requests.read(num_bytes)
        if fault is Fault.RESET:
            return _reset(client)
        if fault in (Fault.INTERNAL, Fault.SLOW_DOWN, Fault.EXPIRED, Fault.FORBIDDEN):
            client.sendall(_error_answer(fault, method))
            return True
        if fault is Fault.STALL:
            time.sleep(STALL_S)
        with socket.create_connection(self._upstream) as server, server.makefile("rb") as answers:
            server.sendall(head + body)
            return self._forward(client, answers, method, fault)

    def _forward(self, client: socket.socket, answers, method: str, fault: Fault | None) -> bool:
        head = _read_head(answers)
        if not head:
            return _reset(client)
        status = int(head.split(b" ", 2)[1])
        empty = method == "HEAD" or status in (204, 304)
        chunked = b"chunked" in (_header(head, b"transfer-encoding") or b"")
        left = 0 if empty or chunked else int(_header(head, b"content-length") or 0)
        if fault is Fault.LOST_REPLY:
            return _reset(client)
        client.sendall(head)
        if chunked and not empty:
            _forward_chunks(client, answers)
            return True
        half = left // 2 if fault in (Fault.RESET_BODY, Fault.TRUNCATED, Fault.STALL_BODY) else -1
        while left > 0:
            if left <= half:
                time.sleep(STALL_S if fault is Fault.STALL_BODY else 0.05)
                if fault is Fault.RESET_BODY:
                    return _reset(client)
                if fault is Fault.TRUNCATED:
                    return False  # an orderly end: FIN
                half = -1
            block = answers.read(min(BLOCK_BYTES, left if half < 0 else max(left - half, 1)))
            client.sendall(block)
            left -= len(block)
        return True


def _read_head(file) -> bytes:
    """Read up to the empty line; b"" at the end of the connection."""
    lines = []
    while line := file.readline():
        lines.append(line)
        if line == b"\r\n":
            return b"".join(lines)
    return b""


def _header(head: bytes, name: bytes) -> bytes | None:
    for line in head.split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key.lower() == name:
            return value.strip()
    return None


def _forward_chunks(client: socket.socket, answers) -> None:
    while True:
        size = answers.readline()
        client.sendall(size + answers.read(int(size.split(b";")[0], 16) + 2))
        if int(size.split(b";")[0], 16) == 0:
            return


def _error_answer(fault: Fault, method: str) -> bytes:
    status, code = fault.split(" ")
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>injected</Message></Error>".encode()
    head = f"HTTP/1.1 {status} {code}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    return head if method == "HEAD" else head + body


def _reset(connection: socket.socket) -> bool:
    """Close with RST instead of FIN; returns False for callers that end the connection with it."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.shutdown(socket.SHUT_RD)
    connection.close()
    return False
