"""Publications in a hub repository: one commit each, on main or a branch. The door to the hub for what is uploaded.

Files of some size are uploaded one by one before the commit, which names them: a killed upload keeps those that were
done. The token is that of HF_TOKEN or of `hf auth login`; HF_ENDPOINT is honoured.
"""

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from sana.delivery.secrets import Redactor
from sana.delivery.upload import Upload
from sana.errors import ConfigError, SanaError
from sana.store_errors import StoreError
from sana.wording import without_password

MAIN = "main"
CARD = "README.md"
CALL_TIMEOUT_S = 300.0  # of each read and write; the hub's own client has none and waits for ever
SMALL_BYTES = 2**15  # such files are sent with the commit, or just before it
_TRANSIENT = {408, 425, 429, 500, 502, 503, 504}
_QUOTA = re.compile(r"quota|storage limit|exceeded|too large|payment", re.IGNORECASE)
T = TypeVar("T")


class HubPlace:
    """A model repository `owner/name`."""

    def __init__(self, repository: str, *, private: bool) -> None:
        self._id, self._private = repository, private

    @property
    def page(self) -> str:
        """The address of its web page."""
        return without_password(f"{_endpoint()}/{self._id}")

    def prepare(self) -> None:
        """Make the repository unless it is there; one that is public where the config says private is refused."""
        from huggingface_hub import constants, get_token, set_client_factory
        from huggingface_hub.utils import disable_progress_bars

        if constants.HF_HUB_OFFLINE:
            raise ConfigError("HF_HUB_OFFLINE is set, and publish.to is on the hub: unset it, or publish elsewhere")
        if not get_token():
            raise ConfigError(
                f"publishing to {self.page} needs a token with the right to write: set HF_TOKEN, or `hf auth login`"
            )
        disable_progress_bars()
        set_client_factory(_client_with_timeouts)
        self._call(
            lambda: _api().create_repo(self._id, repo_type="model", private=self._private, exist_ok=True),
            "make the repository",
        )
        self._call(self._use_xet_where_it_is, "ask for its kind of storage")
        info = self._call(lambda: _api().repo_info(self._id, repo_type="model"), "look at the repository")
        if self._private and not info.private:
            raise ConfigError(
                f"{self.page} is public, and publish.private is true: make the repository private, name another, or "
                "set publish.private: false"
            )

    def _use_xet_where_it_is(self) -> None:
        """Let the client use LFS where the hub has no Xet: it would take the package alone for a sign of it."""
        from huggingface_hub import constants, get_session
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

        url = f"{_endpoint()}/api/models/{self._id}/xet-write-token/{MAIN}"
        if not constants.HF_HUB_DISABLE_XET and get_session().get(url, headers=build_hf_headers()).status_code == 404:
            constants.HF_HUB_DISABLE_XET = True

    def publish(
        self,
        name: str,
        message: str,
        uploads: Sequence[Upload],
        scratch: Path,
        on_file: Callable[[Upload], None],
    ) -> str:
        """Upload the files and commit them to the branch `name`; returns the commit. Equal files make no commit."""
        from huggingface_hub import CommitOperationAdd

        if name != MAIN:
            self._call(lambda: _api().create_branch(self._id, branch=name, exist_ok=True), f"make the branch {name}")
        for card in (upload for upload in uploads if upload.name == CARD):  # before hours of upload
            text = card.local(scratch).read_text(encoding="utf-8")
            self._call(lambda text=text: _api()._validate_yaml(text, repo_type="model"), "have the card accepted")  # type: ignore[misc]
        operations, small = [], []
        for upload in sorted(uploads, key=lambda upload: upload.name):
            path = upload.local(scratch)
            if upload.num_bytes <= SMALL_BYTES:
                operations.append(CommitOperationAdd(upload.name, path.read_bytes()))
                small.append(upload)
                continue
            operation = CommitOperationAdd(upload.name, str(path))
            self._call(
                lambda operation=operation: _api().preupload_lfs_files(self._id, [operation], revision=name),  # type: ignore[misc]
                f"upload {upload.name}",
            )
            if not operation._is_uploaded:  # a text: it is sent with the commit
                operation = CommitOperationAdd(upload.name, path.read_bytes())
            operations.append(operation)
            on_file(upload)
        commit = self._call(
            lambda: _api().create_commit(self._id, operations, commit_message=message, revision=name),
            f"commit to {name}",
        )
        for upload in small:
            on_file(upload)
        return str(commit.oid)

    def _call(self, request: Callable[[], T], what: str) -> T:
        """Call the hub, whose client tries again what may pass, and explain the failure that remains."""
        from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # httpx's, of whatever version

        try:
            return request()
        except (HTTPError, OSError, ValueError, RuntimeError, LookupError) as error:
            # ValueError: no JSON, LookupError: other JSON; RuntimeError: a thread's
            raise self._explain(error, what) from error

    def _explain(self, error: Exception, what: str) -> SanaError:
        from huggingface_hub import get_token

        cause: BaseException = error
        while _status(cause) is None and cause.__cause__ is not None:
            cause = cause.__cause__
        status = _status(cause)
        redact = Redactor([get_token() or ""])
        said = redact(" ".join((getattr(cause, "server_message", None) or f"{type(cause).__name__}: {cause}").split()))
        said, where = without_password(said[:300]), f"{self.page}: could not {what}"
        if status in (402, 413, 507) or (status in (400, 403, None) and _QUOTA.search(said)):
            return SanaError(
                f"{where}, the hub's storage quota or size limit is reached ({said}): free some space there, or take a "
                "plan with more"
            )
        if status == 401:
            return SanaError(f"{where} (HTTP 401): HF_TOKEN is not valid, or may not write; make one with that right")
        if status == 403:
            return SanaError(f"{where} (HTTP 403, {said}): the account of your HF_TOKEN may not write there")
        if status == 404:
            return SanaError(f"{where} (HTTP 404): there is no such repository for the account of your HF_TOKEN")
        if status in (409, 412):
            return StoreError(f"{where} (HTTP {status}, {said}): somebody else changed the repository meanwhile")
        if status in _TRANSIENT or (status is None and not isinstance(error, ValueError)):
            how = f"HTTP {status}, {said}" if status else said
            return StoreError(f"{where} ({how}): the hub is busy, in trouble or out of reach; try again later")
        return SanaError(f"{where} (HTTP {status}, {said})" if status else f"{where} ({said})")


def _client_with_timeouts() -> Any:
    from huggingface_hub.utils._http import default_client_factory

    client = default_client_factory()
    client.timeout = CALL_TIMEOUT_S
    return client


def _endpoint() -> str:
    from huggingface_hub import constants

    return (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")


def _api() -> Any:
    from huggingface_hub import HfApi

    return HfApi(endpoint=_endpoint())


def _status(error: BaseException) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)
