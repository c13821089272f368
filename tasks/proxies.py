"""Proxies that the environment names: never on the way to this machine itself."""

import os
from collections.abc import MutableMapping
from importlib.util import find_spec
from urllib.parse import urlsplit
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined] # documented nowhere, used by requests

THIS_MACHINE = ("localhost", "127.0.0.1", "::1", "0.0.0.0")  # noqa: S104 - as an address to reach, which people write


def spare_loopback(environ: MutableMapping[str, str] = os.environ) -> list[str]:
    """Add this machine to `no_proxy` where a proxy is set, beside the user's own entries; children inherit it.

    Every client reads it: httpx (Prefect, the Hub), requests (MLflow), urllib, websockets, aiohttp. A SOCKS proxy that
    httpx cannot use for want of a package, so that it fails before it looks at `no_proxy`, is taken out. Call it
    before clients are made. Returns one warning for each proxy that was taken out.
    """
    warnings = []
    if find_spec("socksio") is None:
        for name in _proxies(environ):
            if urlsplit(environ[name]).scheme.startswith("socks"):
                del environ[name]
                warnings.append(
                    f"{name} names a SOCKS proxy, not used: it needs the package socksio (pip install 'httpx[socks]')"
                )
    if not _proxies(environ):
        return warnings
    either = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    for name in ("no_proxy", "NO_PROXY"):  # most libraries look at the first, some at the second only
        entries = [entry.strip() for entry in (environ.get(name) or either).split(",") if entry.strip()]
        if "*" not in entries:
            environ[name] = ",".join([*entries, *(host for host in THIS_MACHINE if host not in entries)])
    return warnings


def proxy_for(url: str, environ: MutableMapping[str, str] = os.environ) -> tuple[str, str] | None:
    """Return (address, variable) of the proxy that stands between here and `url`, or None."""
    place = urlsplit(url)
    if proxy_bypass_environment(place.netloc.rpartition("@")[2], {"no": environ.get("no_proxy", "")}):
        return None
    for kind in (place.scheme, "all"):
        for name in (f"{kind}_proxy", f"{kind}_proxy".upper()):
            if address := environ.get(name):
                return address, name
    return None


def _proxies(environ: MutableMapping[str, str]) -> list[str]:
    """Name the variables that set a proxy, as urllib finds them: any that ends with `_proxy`."""
    return [
        name
        for name, value in environ.items()
        if value and name.lower().endswith("_proxy") and name.lower() != "no_proxy"
    ]
