"""What every request must pass, and every answer carries: the page is for this machine, and can change nothing.

A page of another site cannot read answers (no CORS header is ever sent), nor reach them through a name that it makes
point here (DNS rebinding: the Host header must be a name or address that this server is known by).
"""

import ipaddress
import socket
from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

METHODS = ("GET", "HEAD")
# attributes of style are the widths of bars, numbers of ours; style and script come from files of this server
PAGE_POLICY = (
    "default-src 'none'; img-src 'self' data:; media-src 'self'; style-src 'self'; style-src-attr 'unsafe-inline'; "
    "script-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
# what a self-contained page may do, wherever it came from: nothing with this server's address, nothing over the network
DOCUMENT_POLICY = (
    "sandbox allow-scripts; default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}


def is_loopback(host: str) -> bool:
    """Tell whether a host to listen on, a name or an address, is reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def names_of(host: str) -> frozenset[str]:
    """Return the names that a request to a server which listens on `host` may call it by, beside addresses."""
    own = {"localhost", host.lower()}
    return frozenset(own if is_loopback(host) else own | {socket.gethostname().lower(), socket.getfqdn().lower()})


def may_be_called(header: str, names: Collection[str], *, any_address: bool) -> bool:
    """Tell whether a Host header is one of ours: a known name or an address, with any port (of a tunnel, say).

    An address cannot be made to point elsewhere. `any_address`: also one that is not loopback.
    """
    host = header.strip().lower()
    if host.startswith("["):
        host, closed, port = host[1:].partition("]")
        if not closed or not (port == "" or (port.startswith(":") and port[1:].isdecimal())):
            return False
    elif ":" in host:
        host, _, port = host.rpartition(":")
        if not port.isdecimal():
            return False
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host in names
    return any_address or address.is_loopback


class Guard:
    """ASGI: refuses methods that could change something and foreign Host headers; adds the headers of safety."""

    def __init__(self, app: ASGIApp, *, host: str) -> None:
        self._app = app
        self._names, self._any_address = names_of(host), not is_loopback(host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # a web socket: there is none
            await send({"type": "websocket.close", "code": 1008})
            return

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("Content-Security-Policy", PAGE_POLICY)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        hosts = Headers(scope=scope).getlist("host")
        if scope["method"] not in METHODS:
            refusal = PlainTextResponse("this server only shows: GET or HEAD\n", 405, {"Allow": ", ".join(METHODS)})
            await refusal(scope, receive, send_safely)
        elif len(hosts) != 1 or not may_be_called(hosts[0], self._names, any_address=self._any_address):
            refusal = PlainTextResponse("this server is not known by that name; open it as localhost\n", 421)
            await refusal(scope, receive, send_safely)
        else:
            await self._app(scope, receive, send_safely)
