"""How a notification reaches one target: a signed POST, or apprise. Blocking; each try has a time limit of its own.

The one door to apprise. Nothing that is logged or raised here holds an address or a secret.
"""

import hashlib
import hmac
import http.client
import logging
import re
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Protocol
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPHandler, HTTPRedirectHandler, HTTPSHandler, Request, build_opener

from sana.config.delivery.notifications import NotificationTarget
from sana.delivery.notification import Notification
from sana.delivery.secrets import Redactor, read_secret, read_url
from sana.errors import ConfigError, SanaError

TRY_AGAIN = {408, 425, 429, 500, 502, 503, 504}
MAX_RETRY_AFTER_S = 60.0
SIGNATURE, TIMESTAMP, DELIVERY, EVENT = "X-Sana-Signature", "X-Sana-Timestamp", "X-Sana-Delivery", "X-Sana-Event"


class DeliveryError(SanaError):
    """A notification was not taken. `permanent`: nor would it be the next time."""

    def __init__(self, message: str, *, permanent: bool = False, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.permanent, self.retry_after_s = permanent, retry_after_s


class Transport(Protocol):
    """One way to one target. Raises DeliveryError."""

    def send(self, note: Notification, timeout_s: float) -> None: ...
    def abort(self) -> None: ...  # ends a `send` that another thread is in, where that can be done


def open_transport(target: NotificationTarget) -> Transport:
    """Read the target's address and secret, and return the way to it.

    Raises:
        ConfigError: one is not there, or it is no address.
    """
    url, secret = read_url(target), read_secret(target)
    redact = Redactor([url, *([secret] if secret else [])])
    if target.kind == "apprise":
        return AppriseTransport(url, redact)
    return WebhookTransport(url, secret, redact)


def sign(secret: str, timestamp: str, body: bytes) -> str:
    """Return the signature of a body: v1=, and the HMAC-SHA256 of `timestamp.body` in hex digits."""
    digest = hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()
    return f"v1={digest}"


class WebhookTransport:
    """POSTs JSON, signed where there is a secret. Proxies of the environment are used; redirects are not followed."""

    def __init__(self, url: str, secret: str | None, redact: Redactor) -> None:
        try:
            split = urlsplit(url)
            usable = split.scheme in ("http", "https") and bool(split.hostname) and split.port != 0
        except ValueError:
            usable = False
        if not usable or not url.isascii() or any(char.isspace() for char in url):
            raise ConfigError("the address of a webhook is not one: it begins with http:// or https:// and a host")
        self._url, self._secret, self._redact = url, secret, redact
        self._sockets: list[socket.socket] = []
        self._opener = build_opener(_NoRedirect, _Http(self._sockets.append), _Https(self._sockets.append))

    def send(self, note: Notification, timeout_s: float) -> None:
        """POST it once; the body of the answer is not read."""
        body, timestamp = note.payload(self._redact), str(int(time.time()))
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "sana-video-pipeline",
            EVENT: f"{note.event}.{note.state}",
            DELIVERY: note.id,
            TIMESTAMP: timestamp,
        }
        if self._secret is not None:
            headers[SIGNATURE] = sign(self._secret, timestamp, body)
        self._sockets.clear()
        try:
            request = Request(self._url, data=body, headers=headers, method="POST")  # noqa: S310 - checked above
            with self._opener.open(request, timeout=timeout_s):
                pass
        except HTTPError as error:
            error.close()
            raise _refused(error.code, error.headers.get("Retry-After", "")) from None
        except URLError as error:
            raise DeliveryError(_reason(error.reason)) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise DeliveryError(_reason(error)) from None

    def abort(self) -> None:
        """Close the connection that a `send` is waiting at."""
        for sock in self._sockets[-1:]:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


class AppriseTransport:
    """Whatever apprise has an address for."""

    def __init__(self, url: str, redact: Redactor) -> None:
        from apprise import Apprise  # takes 0.15 s, and most runs need none

        logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)  # its lines quote addresses
        logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
        service = Apprise.instantiate(url, suppress_exceptions=True)
        if service is None:
            raise ConfigError("apprise knows no such address; its own documentation lists them: discord://, slack://")
        self._service, self._redact = service, redact
        self._all = Apprise()
        self._all.add(service)

    def send(self, note: Notification, timeout_s: float) -> None:
        """Send it once, as text."""
        self._service.socket_connect_timeout = self._service.socket_read_timeout = timeout_s
        kind = {"error": "failure", "warning": "warning"}.get(note.level, "info")
        if note.state in ("completed", "saved", "done"):
            kind = "success" if kind == "info" else kind
        body, title = note.words(self._redact), self._redact(note.title)
        if not self._all.notify(body=body, title=title, notify_type=kind):
            raise DeliveryError("the service did not take it, or could not be reached")

    def abort(self) -> None:
        """Do nothing: apprise has no way to end a try; it ends by its own time limits."""


class _NoRedirect(HTTPRedirectHandler):
    """What is signed for one address is not sent to another."""

    def redirect_request(self, *_: Any) -> None:
        return None


class _Http(HTTPHandler):
    def __init__(self, opened: Callable[[socket.socket], object]) -> None:
        super().__init__()
        self._opened = opened

    def http_open(self, req: Request) -> http.client.HTTPResponse:
        return self.do_open(partial(_Connection, self._opened), req)  # type: ignore[arg-type, return-value]


class _Https(HTTPSHandler):
    def __init__(self, opened: Callable[[socket.socket], object]) -> None:
        super().__init__()
        self._opened = opened

    def https_open(self, req: Request) -> http.client.HTTPResponse:
        return self.do_open(partial(_SecureConnection, self._opened), req)  # type: ignore[arg-type, return-value]


class _Connection(http.client.HTTPConnection):
    def __init__(self, opened: Callable[[socket.socket], object], host: str, **options: Any) -> None:
        super().__init__(host, **options)
        self._opened = opened

    def connect(self) -> None:
        super().connect()
        self._opened(self.sock)


class _SecureConnection(http.client.HTTPSConnection):
    def __init__(self, opened: Callable[[socket.socket], object], host: str, **options: Any) -> None:
        super().__init__(host, **options)
        self._opened = opened

    def connect(self) -> None:
        super().connect()
        self._opened(self.sock)


def _refused(status: int, retry_after: str) -> DeliveryError:
    if 300 <= status < 400:
        return DeliveryError(
            f"it answers {status}, a redirect, which is not followed: give the address it leads to", permanent=True
        )
    wait_s = min(float(retry_after), MAX_RETRY_AFTER_S) if re.fullmatch(r"\d{1,6}", retry_after) else 0.0
    return DeliveryError(f"it answers {status}", permanent=status not in TRY_AGAIN, retry_after_s=wait_s)


def _reason(error: object) -> str:
    """Say why a connection failed, without quoting an address."""
    text = f"{type(error).__name__} {error}"
    for pattern, words in (
        (r"gaierror", "its host name is not known here"),
        (r"refused", "nothing runs at its address"),
        (r"Timeout|timed out", "it does not answer in time"),
        (r"CERTIFICATE_VERIFY_FAILED", "its certificate is not trusted here"),
        (r"SSL|WRONG_VERSION", "it does not speak TLS"),
        (r"reset|RemoteDisconnected|aborted|Broken pipe|IncompleteRead|Bad file", "it hangs up"),
        (r"BadStatusLine|LineTooLong|UnknownProtocol", "it does not speak HTTP"),
        (r"Tunnel|proxy", "the proxy fails"),
    ):
        if re.search(pattern, text):
            return words
    return f"the connection fails ({type(error).__name__})"
