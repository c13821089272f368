"""Waiting for a server that this process has started."""

import subprocess
import time
import urllib.error
import urllib.request


def answers(url: str, process: "subprocess.Popen[bytes]", timeout_s: float) -> bool:
    """Wait until the server answers at `url`/health; False when its process has ended, or the time is up."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):  # noqa: S310 - our own server
                return True
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            if process.poll() is not None:
                return False
            time.sleep(0.1)
    return False
