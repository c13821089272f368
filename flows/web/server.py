"""The server of the live page: in this process, in a thread of its own, on loopback unless told otherwise."""

import logging
import socket
import threading
import time
from types import TracebackType
from typing import Self

import uvicorn
from starlette.types import ASGIApp

from sana.errors import SanaError
from sana.wording import one_line

_STOP_TIMEOUT_S = 3
_QUIET_S = 60.0  # between two lines that complain of the same
_MAX_CONNECTIONS = 400  # more than pages that are kept up to date: those over are told so

_log = logging.getLogger(__name__)


class Lines(logging.Handler):
    """What uvicorn complains of, such as a connection that broke off, in a line and without a traceback.

    A flood of connections is one line a minute.
    """

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self._said: dict[str, tuple[float, int]] = {}  # by uvicorn's words: monotonic, and how often since

    def emit(self, record: logging.LogRecord) -> None:
        now, kind = time.monotonic(), str(record.msg)  # without what a request put into it: there are few
        said_at, num_more = self._said.get(kind, (-_QUIET_S, 0))
        if now - said_at < _QUIET_S:
            self._said[kind] = said_at, num_more + 1
            return
        self._said[kind] = now, 0
        error = record.exc_info[1] if record.exc_info else None
        said = f"{type(error).__name__}: {error}" if error is not None else record.getMessage()
        more = f" ({num_more} more like it since the last line)" if num_more else ""
        _log.warning("the page's server: %s%s", one_line(said), more)


class PageServer:
    """Listens within its `with` block."""

    def __init__(self, app: ASGIApp, host: str, port: int) -> None:
        self._socket = _listen(host, port)
        self.port: int = self._socket.getsockname()[1]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{self.port}"
        config = uvicorn.Config(
            app,
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=True,
            proxy_headers=False,
            limit_concurrency=_MAX_CONNECTIONS,
            timeout_graceful_shutdown=_STOP_TIMEOUT_S,
        )
        logger = logging.getLogger("uvicorn.error")
        logger.propagate = False
        logger.handlers[:] = [Lines(logging.WARNING)]
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._serve, name="page-server", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        self._thread.join(2 * _STOP_TIMEOUT_S)
        self._socket.close()

    def wait(self) -> None:
        """Wait until the server ends.

        Raises:
            SanaError: it did, by itself.
        """
        while self._thread.is_alive():
            self._thread.join(1.0)  # so that Ctrl-C is heard
        raise SanaError(f"the server of {self.url} ended by itself; start it again")

    def _serve(self) -> None:
        self._server.run(sockets=[self._socket])


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens there; port 0: one that is free.

    Raises:
        SanaError: the address cannot be listened on.
    """
    where = f"{f'[{host}]' if ':' in host else host}:{port}"
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(128)
        except OSError:
            listening.close()
            raise
    except OSError as error:
        raise SanaError(
            f"cannot listen on {where}: {error.strerror}; choose another address with --port or --host"
        ) from error
    return listening
