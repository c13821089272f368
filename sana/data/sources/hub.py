"""The one door to huggingface_hub: resolve a revision to a commit, list a commit's files, fetch a file.

A commit never changes, so its listing is cached on disk and not requested again. With HF_HUB_OFFLINE=1 only that cache
and the Hugging Face cache (`hf download`) are used. HF_TOKEN and HF_ENDPOINT are honoured.
"""

import hashlib
import io
import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar

from sana.data.sources.hub_cache import HubCache, HubFile
from sana.errors import ConfigError, SanaError, disk_full
from sana.wording import one_line, without_password

REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
RETRY_WAITS_S = (0.5, 2.0)  # for calls that huggingface_hub does not retry itself

_COMMIT = re.compile(r"[0-9a-f]{40}")
_TRANSIENT = {408, 429, 500, 502, 503, 504}

T = TypeVar("T")


@dataclass(frozen=True)
class HubRepo:
    """A data set or a model `owner/name`. Listings are cached in `cache_folder`; `read_only` leaves it as it is.

    Every method raises ConfigError when the repository, the revision or the permission to read is missing (the message
    names the repository, its page and HF_TOKEN), and SanaError when the hub cannot be reached or sends damaged bytes.
    """

    kind: Literal["dataset", "model"]
    id: str
    cache_folder: Path
    read_only: bool = False

    @property
    def page(self) -> str:
        """The address of its web page, where a gated repository's terms are accepted."""
        return without_password(f"{endpoint()}/{'datasets/' if self.kind == 'dataset' else ''}{self.id}")

    def resolve(self, revision: str) -> str:
        """Return the commit (40 hex digits) that a branch, tag or commit is now; offline, what it was last."""
        if _COMMIT.fullmatch(revision):
            return revision
        if is_offline():
            cached = self._cache.commit(revision)
            if cached is None:
                raise ConfigError(
                    f"HF_HUB_OFFLINE is set, and nothing here remembers which commit {revision!r} of {self._name} is. "
                    f"Run once with the network, or `hf download {self.id} --repo-type {self.kind} "
                    f"--revision {revision}`"
                )
            return cached
        commit = self._call(
            lambda: str(_api().repo_info(self.id, repo_type=self.kind, revision=revision).sha),
            what=f"revision {revision!r}",
        )
        self._cache.store_commit(revision, commit)
        return commit

    def list_files(self, commit: str) -> list[HubFile]:
        """Return every file of a commit."""
        cached = self._cache.files(commit)
        if cached is not None:
            return cached
        if is_offline():
            raise ConfigError(
                f"HF_HUB_OFFLINE is set, and nothing here remembers the files of {self._name} at {commit}. "
                f"Run once with the network, or `hf download {self.id} --repo-type {self.kind} --revision {commit}`"
            )
        files = self._call(
            lambda: [
                HubFile.listed(entry.path, entry.size, entry.lfs.sha256 if entry.lfs else None, entry.blob_id)
                for entry in _api().list_repo_tree(self.id, recursive=True, revision=commit, repo_type=self.kind)
                if hasattr(entry, "blob_id")  # a file, not a folder
            ],
            what=f"commit {commit}",
            waits_s=(),
        )
        self._cache.store_files(commit, files)
        return files

    def check_access(self, commit: str, path: str) -> None:
        """Request a file's header: anybody may list a gated repository, but few may read its files."""
        if is_offline() or self._cached_path(commit, path):
            return
        from huggingface_hub import get_hf_file_metadata, hf_hub_url

        hub = endpoint()
        url = hf_hub_url(self.id, path, repo_type=self.kind, revision=commit, endpoint=hub)
        self._call(lambda: get_hf_file_metadata(url, endpoint=hub, token=None), what=path)

    def fetch(self, commit: str, file: HubFile, to: Path) -> None:
        """Fetch a file to the path `to`, whole and with its digest checked, or not at all.

        It is copied from the Hugging Face cache if it is there. A connection that breaks is resumed. The bytes of a
        fetch that failed or was killed stay in `to` + ".part", from where the next one resumes.
        """
        partial = to.with_name(f"{to.name}.part")
        for resumed in (partial.exists(), False):
            came_from = self._complete(commit, file, partial)
            found = _digest_like(file.digest, partial)
            if found == file.digest:
                os.replace(partial, to)
                return
            partial.unlink()
            if not resumed:  # else the earlier part may be damaged: try again from the first byte
                raise SanaError(
                    f"{file.path} of {self._name} came damaged from {came_from}: its content is {found}, the hub "
                    f"lists {file.digest}. Run again; if it stays, the mirror or cache is bad"
                )

    def read_range(self, commit: str, file: HubFile, start: int, length: int) -> bytes:
        """Return `length` bytes of a file, from `start` on; from the Hugging Face cache if it is there."""
        cached = self._cached_path(commit, file.path)
        if cached:
            with open(cached, "rb") as local:
                local.seek(start)
                return local.read(length)
        if is_offline():
            raise self._not_here(commit, file)
        found = io.BytesIO()
        self._call(lambda: self._download(commit, file, found, (start, length)), what=file.path, waits_s=())
        if len(found.getvalue()) != length:
            raise SanaError(
                f"{without_password(endpoint())} gave {len(found.getvalue())} bytes for {length} of {file.path} of "
                f"{self._name}: it does not answer requests for ranges; use a mirror that does"
            )
        return found.getvalue()

    def _not_here(self, commit: str, file: HubFile) -> ConfigError:
        return ConfigError(
            f"HF_HUB_OFFLINE is set, and {file.path} of {self._name} is not in the Hugging Face cache. "
            f"Fetch it with the network: `hf download {self.id} --repo-type {self.kind} --revision {commit}`"
        )

    def _complete(self, commit: str, file: HubFile, partial: Path) -> str:
        """Complete `partial` from the Hugging Face cache or the hub; returns where the bytes came from."""
        cached = self._cached_path(commit, file.path)
        if cached:
            shutil.copyfile(cached, partial)
        elif is_offline():
            raise self._not_here(commit, file)
        else:
            try:
                with partial.open("ab") as out:
                    self._call(lambda: self._download(commit, file, out), what=file.path, waits_s=())
            finally:
                if partial.exists() and not partial.stat().st_size and file.num_bytes:
                    partial.unlink()
        return cached or without_password(endpoint())

    def _download(self, commit: str, file: HubFile, out: BinaryIO, part: tuple[int, int] | None = None) -> None:
        """Append the missing bytes, of the file or of a `part`: its first byte and length.

        hf_hub_download would begin again: it keeps nothing of a failed download.
        """
        from huggingface_hub import hf_hub_url
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils import build_hf_headers, disable_progress_bars  # type: ignore[attr-defined]

        disable_progress_bars("huggingface_hub.http_get")  # one bar per video is only noise
        url = hf_hub_url(self.id, file.path, repo_type=self.kind, revision=commit, endpoint=endpoint())
        start, length = part or (0, file.num_bytes)
        headers = build_hf_headers()
        if part:
            headers["Range"] = f"bytes={start}-{start + length - 1}"
        if out.tell() > length:
            out.truncate(0)
        http_get(url, out, resume_size=out.tell(), headers=headers, expected_size=length)

    def _cached_path(self, commit: str, path: str) -> str | None:
        """Return the path of the file in the Hugging Face cache, if any tool downloaded it before."""
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(self.id, path, revision=commit, repo_type=self.kind)
        return found if isinstance(found, str) else None

    @property
    def _name(self) -> str:
        return f"the Hugging Face {self.kind} {self.id}"

    @property
    def _cache(self) -> HubCache:
        from huggingface_hub import constants

        folder = f"{self.kind}s--{self.id.replace('/', '--')}"
        return HubCache(self.cache_folder / folder, Path(constants.HF_HUB_CACHE).expanduser() / folder, self.read_only)

    def _call(self, request: Callable[[], T], *, what: str, waits_s: tuple[float, ...] = RETRY_WAITS_S) -> T:
        """Call the hub, retry transient failures after each wait, and explain the failure that remains."""
        from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # httpx's, of whatever version

        for wait_s in (*waits_s, None):
            try:
                return request()
            except (HTTPError, OSError, ValueError, RuntimeError) as error:  # ValueError: no JSON; RuntimeError: xet
                if full := disk_full(error):
                    raise full from error
                explained = self._explain(error, what)
                if isinstance(explained, ConfigError) or wait_s is None or _status(error) not in {None, *_TRANSIENT}:
                    raise explained from error
            time.sleep(wait_s)
        raise AssertionError("the last round returns or raises")

    def _explain(self, error: Exception, what: str) -> SanaError:
        from huggingface_hub import errors, get_token

        if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
            error = error.__cause__  # "not in the cache either" hides why the hub did not send it
        status, token = _status(error), get_token()
        account = "the account of your HF_TOKEN" if token else "a reader without HF_TOKEN"
        fix = f"open {self.page}, log in, accept the licence if it asks, and set HF_TOKEN to a token of that account"
        if isinstance(error, errors.GatedRepoError) or status == 403:
            return ConfigError(f"{self._name} is closed to {account} (HTTP {status}): {fix}")
        if isinstance(error, errors.RevisionNotFoundError):
            return ConfigError(f"{self._name} has no {what}: see its branches and commits at {self.page}")
        if isinstance(error, errors.RepositoryNotFoundError | errors.DisabledRepoError) or status == 401:
            return ConfigError(f"{self._name} does not exist, or not for {account} (HTTP {status}): {fix}")
        if isinstance(error, errors.HFValidationError):
            return ConfigError(f"{self._name} is no valid name: {error}")
        cause = without_password(one_line(error, with_type=True, most=300))
        if token:
            cause = cause.replace(token, "***")
        return SanaError(
            f"{without_password(endpoint())} did not give {what} of {self._name}: {cause}. Check the network and "
            "HF_ENDPOINT and run again; HF_HUB_OFFLINE=1 works with what is already here"
        )


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE is set: then only what is on this machine is used."""
    from huggingface_hub import is_offline_mode

    return is_offline_mode()


def endpoint() -> str:
    """Return the address of the hub, or of a mirror, which may hold a password."""
    from huggingface_hub import constants

    return (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")


def token_and_origin() -> tuple[str, str]:
    """Return the token that the hub is sent, which is never to be shown, and where it was found; "" without one."""
    from huggingface_hub import constants, get_token

    token = get_token() or ""
    named = next((name for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN") if os.environ.get(name, "").strip()), "")
    return token, "" if not token else named or f"the file {constants.HF_TOKEN_PATH}"


def _api() -> Any:
    from huggingface_hub import HfApi

    return HfApi(endpoint=endpoint())


def _status(error: Exception) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _git_blob(path: Path) -> Any:
    return hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)


def _digest_like(expected: str, path: Path) -> str:
    """Digest a local file by the method of `expected`, "sha256" or "git"."""
    method = expected.partition(":")[0]
    hasher = hashlib.sha256() if method == "sha256" else _git_blob(path)
    with path.open("rb") as file:
        hashlib.file_digest(file, lambda: hasher)
    return f"{method}:{hasher.hexdigest()}"
