"""Does the Prefect server that the user's settings name take our flow? One line that says why not, within seconds."""

import logging
import os
import re
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import prefect
from prefect.client.base import ServerType, determine_server_type
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, get_current_settings, temporary_settings

from sana.errors import SanaError
from sana.wording import without_password
from tasks.proxies import proxy_for

# Prefect's client connects up to four times; a server at work on a busy machine may take seconds to answer
TIMEOUT_S = httpx.Timeout(10.0, connect=2.5)
_OR_FIREWALL = "; mend host and port, or let the firewall pass it"
OR_ALONE = "or run without it, on a temporary server: PREFECT_API_URL= sana run ..."

log = logging.getLogger(__name__)


def check_server() -> None:
    """Ask the server of Prefect's settings for its version, as Prefect's own client would, once.

    Raises:
        SanaError: it cannot be used; the message says where its address was set, what came back, and the remedy.
    """
    url = str(PREFECT_API_URL.value())
    try:
        version = _version_of(url)
        why = "" if version is None else _mismatch(version)
    except PrefectHTTPStatusError as error:
        why = _of_status(error.response, url)
    except httpx.TimeoutException:
        why = f"does not answer within {TIMEOUT_S.read:g} s{_through(url) or _OR_FIREWALL}"
    except httpx.ProxyError as error:
        why = f"is not reached, as the proxy fails ({error}); mend http_proxy/https_proxy, or add the host to no_proxy"
    except (httpx.UnsupportedProtocol, httpx.InvalidURL):
        why = "is no address; it must look like http://127.0.0.1:4200/api"
    except httpx.ConnectError as error:
        through = _through(url)
        why = f"is not reached ({error}){through}" if through else _of_connect(str(error), url)
    except httpx.HTTPError as error:  # it hangs up, speaks no HTTP, or redirects for ever
        scheme = "; if that server speaks TLS, write https://" if url.startswith("http://") else ""
        why = f"is another service, or breaks off ({error}){scheme}"
    except ValueError:
        why = _no_prefect(url, "a page that is no answer of Prefect's API")
    if why:
        raise SanaError(f"the Prefect server {without_password(url)} ({origin()}) {why}; {OR_ALONE}")


def origin() -> str:
    """Say where the address of the server was set, in the order in which Prefect looks."""
    if "PREFECT_API_URL" in os.environ:
        return "PREFECT_API_URL in the environment"
    if "PREFECT_API_URL" in _text(".env"):
        return "PREFECT_API_URL in .env"
    if "url" in tomllib.loads(_text("prefect.toml")).get("api", {}):
        return "api.url in prefect.toml"
    if "url" in tomllib.loads(_text("pyproject.toml")).get("tool", {}).get("prefect", {}).get("api", {}):
        return "tool.prefect.api.url in pyproject.toml"
    return f"PREFECT_API_URL of a profile in {get_current_settings().profiles_path}"


def _text(name: str) -> str:
    path = Path(name)
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _version_of(url: str) -> tuple[int, int] | None:
    """Return (major, minor) of the server at `url`; None of Prefect Cloud, which has no version but answers."""
    with (
        temporary_settings({PREFECT_API_URL: url, PREFECT_CLIENT_MAX_RETRIES: 0}),
        _client() as client,
    ):
        if determine_server_type() == ServerType.CLOUD:
            failure = client.api_healthcheck()
            if failure is not None:
                raise failure
            return None
        answer = client.api_version()
    numbers = re.match(r"(\d+)\.(\d+)", answer) if isinstance(answer, str) else None
    if numbers is None:
        raise ValueError("no version")
    return int(numbers[1]), int(numbers[2])


def _client() -> SyncPrefectClient:
    """Make Prefect's client, with the user's proxies, certificates, headers and authentication.

    Raises:
        SanaError: a proxy or certificate that is set cannot be used.
    """
    try:
        return get_client(httpx_settings={"timeout": TIMEOUT_S}, sync_client=True)
    except (ValueError, ImportError, OSError, httpx.InvalidURL) as error:
        raise SanaError(
            f"Prefect's client cannot use what is set for a proxy or certificate ({error}); mend or unset http_proxy, "
            "https_proxy and all_proxy, SSL_CERT_FILE and PREFECT_API_SSL_CERT_FILE"
        ) from error


def _mismatch(version: tuple[int, int]) -> str:
    ours = tuple(int(part) for part in prefect.__version__.split(".")[:2])
    if version[0] != ours[0]:
        newer = "newer" if version > ours else "older"
        return f"is Prefect {version[0]}.{version[1]}, {newer} than {prefect.__version__} here; use one of {ours[0]}.x"
    if version < ours:
        log.warning(
            "the Prefect server is %d.%d, older than %s here: upgrade it if records are missing",
            *version,
            prefect.__version__,
        )
    return ""


def _of_status(answer: httpx.Response, url: str) -> str:
    code = answer.status_code
    if code in (401, 403):
        settings = get_current_settings().api
        if settings.auth_string is None and settings.key is None:
            return f"wants authentication ({code}); set PREFECT_API_AUTH_STRING=user:password (Cloud: PREFECT_API_KEY)"
        name = "PREFECT_API_AUTH_STRING" if settings.auth_string is not None else "PREFECT_API_KEY"
        return f"does not accept the {name} that is set ({code}); mend it, as the server's administrator gave it"
    if code == 407:
        return "is not reached, as a proxy wants authentication (407); http_proxy=http://user:password@host:port"
    if code in (429, 502, 503, 504):
        return f"or the proxy before it is not ready ({code}); try again when it is"
    return _no_prefect(url, f"{code} {answer.reason_phrase}".rstrip())


def _no_prefect(url: str, got: str) -> str:
    """Say what to do about an address where something answers that is not Prefect's API."""
    with_api = f"{url.rstrip('/')}/api"
    if not url.rstrip("/").endswith("/api"):
        try:
            _version_of(with_api)
        except (httpx.HTTPError, ValueError):
            pass
        else:
            return f"is not the address of its API ({got}), which is {without_password(with_api)}: add /api"
    return (
        f"is not Prefect's API ({got}): another service, or another path; Prefect's is http://HOST:4200/api as a rule"
    )


def _through(url: str) -> str:
    """Say which proxy it goes through, which may be what does not answer, and what to do; "" without one."""
    found = proxy_for(url)
    if found is None:
        return ""
    address, name = found
    host = urlsplit(url).hostname
    return f" through the proxy {without_password(address)} ({name}); mend that, or add {host} to no_proxy"


def _of_connect(text: str, url: str) -> str:
    """Say why no connection came about; httpx has it in words only, and takes 99999 for port 34463."""
    try:
        _ = urlsplit(url).port
    except ValueError:
        return "has a port that is none, as they go from 0 to 65535; mend it"
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return "shows a certificate that is not trusted here; name its issuer's in PREFECT_API_SSL_CERT_FILE"
    if "SSL" in text:
        return f"does not speak TLS ({text}); write http:// if it is a plain server"
    if "Errno -" in text or "nodename nor servname" in text:  # of getaddrinfo
        return f"has a host name that is not known here ({text}); mend it, or write the address"
    if "refused" in text:
        return "refuses connections: nothing runs there; start it (prefect server start)"
    return f"cannot be reached ({text}); mend host and port, or the network"
