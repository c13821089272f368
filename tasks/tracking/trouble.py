"""Why MLflow does not take a record, in one line with the remedy. Its client says it in many words."""

import re

from sana.errors import SanaError
from sana.wording import without_password

MEND = "mend tracking.uri or MLFLOW_TRACKING_URI"
_WORDS: tuple[tuple[str, str], ...] = (
    # what the client's text holds, what it means
    # before the others: the text of a proxy's error also has what went wrong on the way to it
    (r"ProxyError|Tunnel connection failed", "the proxy fails; mend http_proxy or https_proxy, or set no_proxy"),
    (
        r"NameResolutionError|Name or service not known|nodename nor servname",
        f"its host name is not known here; {MEND}",
    ),
    (r"NewConnectionError|Connection refused", f"nothing runs there; start it, or {MEND}"),
    (r"ReadTimeout|ConnectTimeout|timed out", f"it does not answer in time; restart it, or {MEND} or the firewall"),
    (r"CERTIFICATE_VERIFY_FAILED", "its certificate is not trusted here; name its issuer's in REQUESTS_CA_BUNDLE"),
    (r"SSLError|WRONG_VERSION_NUMBER", "it does not speak TLS; write http:// if it is a plain server"),
    (
        r"error code 40[13]\b|Unauthorized|not authenticated|Permission denied|PERMISSION_DENIED",
        "it wants authentication; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
    ),
    (r"error code 404\b|not in a valid JSON format|no experiment id|redirects", f"another service is there; {MEND}"),
    (r"No module named '?(\w+)", r"its database needs the Python package \1: pip install \1"),
    (
        r"Connection aborted|RemoteDisconnected|ConnectionReset",
        f"it hangs up: another service, or it speaks TLS; {MEND}",
    ),
    (r"50[0234] error res|error code 50[0234]\b", "it is in trouble (5xx); its own log says why"),
    (
        r"Invalid url|Invalid IPv6|unsupported URI|maintenance mode",
        f"that is no address of a server or database; {MEND}",
    ),
    (r"not a database", "that file is no database; remove it or name another"),
)


class TrackerAwayError(SanaError):
    """MLflow did not take what a user asked for."""


def in_words(error: Exception, uri: str) -> str:
    """Say what is wrong and what to do; an error that is not known is its own first line, without passwords."""
    text = f"{type(error).__name__}: {error}"
    for pattern, words in _WORDS:
        if found := re.search(pattern, text):
            return found.expand(words)
    first = str(error).strip().partition("\n")[0].replace(uri, without_password(uri))
    return without_password(first)[:300]
