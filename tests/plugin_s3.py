"""Pytest plugin: the session fixture `s3`, a server that this process's environment points to, and roots on it.

Register it with `pytest_plugins = ["tests.plugin_s3"]` or `-p tests.plugin_s3`. Each xdist worker starts its own.
"""

import functools
from collections.abc import Iterator
from uuid import uuid4

import pytest

from tests.s3_server import WeedServer


@pytest.fixture(scope="session")
def s3() -> Iterator[WeedServer]:
    """Start the server and set the AWS_* variables; both are undone when the session ends."""
    from botocore.loaders import JSONFileLoader  # here: the plugin is loaded for every run

    with WeedServer() as server, pytest.MonkeyPatch.context() as patch:
        # What the user's shell or ~/.aws says must not reach a test.
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS"):
            patch.delenv(name, raising=False)
        patch.setenv("AWS_CONFIG_FILE", "/dev/null")
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
        patch.setenv("NO_PROXY", "127.0.0.1,localhost")
        for name, value in server.env().items():
            patch.setenv(name, value)
        # botocore reads its description of S3 for every session, 0.1 s each, and a test makes several stores
        patch.setattr(JSONFileLoader, "load_file", staticmethod(functools.cache(JSONFileLoader().load_file)))
        yield server


@pytest.fixture
def s3_root(s3: WeedServer) -> str:
    """A prefix of the server's bucket where nothing is yet."""
    return f"s3://{s3.bucket}/test-{uuid4().hex}"
