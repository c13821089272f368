"""The backend of a data set on the Hugging Face hub; read-only, as the others."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path, PurePosixPath

from sana.data.sources.backends import MISSING, changed
from sana.data.sources.file_cache import FileCache
from sana.data.sources.hub import HubRepo
from sana.data.sources.hub_cache import HubFile
from sana.data.sources.listing import ARCHIVE_SUFFIXES, VIDEO_SUFFIXES, SourceFile, is_hidden

_CLOSED = (*VIDEO_SUFFIXES, *ARCHIVE_SUFFIXES)  # what a gated repository does not give


class HubBackend:
    """A Hugging Face data set at the commit that its revision names when it is first listed."""

    base = ""

    def __init__(self, repo: HubRepo, revision: str, cache: FileCache) -> None:
        self._repo = repo
        self._requested = revision
        self._cache = cache

    @cached_property
    def _snapshot(self) -> tuple[str, dict[str, HubFile]]:
        """The commit and its files, together: two threads may both list, and the branch may move in between."""
        commit = self._repo.resolve(self._requested)
        return commit, {file.path: file for file in self._repo.list_files(commit) if not is_hidden(file.path)}

    @property
    def revision(self) -> str:
        return self._snapshot[0]

    def files(self) -> Iterator[SourceFile]:
        commit, files = self._snapshot
        first = next((path for path in sorted(files) if path.lower().endswith(_CLOSED)), None)
        if first:
            self._repo.check_access(commit, first)
        for file in files.values():
            yield SourceFile(file.path, file.num_bytes, file.digest)

    def holds(self, path: str) -> bool:
        """Whether a file itself, and not a member of an archive, has this path."""
        return path in self._snapshot[1]

    def digest(self, file: SourceFile) -> str:
        return file.identity

    def read_range(self, path: str, start: int, length: int) -> bytes:
        """Return `length` bytes of a file, from `start` on."""
        commit, files = self._snapshot
        return self._repo.read_range(commit, files[path], start, length)

    def check_unchanged(self, file: SourceFile) -> None:
        """Do nothing: a commit does not change."""

    def read(self, file: SourceFile) -> bytes:
        with self.open(file.path, digest=file.identity) as path:
            return path.read_bytes()

    def open(self, path: str, *, digest: str) -> AbstractContextManager[Path]:
        def listed() -> tuple[str, HubFile]:
            commit, files = self._snapshot
            file = files.get(path)
            if file is None or file.digest != digest:
                raise changed(f"{path} of {self._repo.page}", digest, file.digest if file else MISSING)
            return commit, file

        return self._cache.open(
            digest,
            PurePosixPath(path).suffix,
            size=lambda: listed()[1].num_bytes,
            fetch=lambda to: self._repo.fetch(*listed(), to),
            resumes=True,
        )
