"""Sources: the videos of a data set and the files that hold their captions, on whatever backend."""

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa

from sana.config.data import DatasetConfig
from sana.config.pipeline import Config
from sana.config.places import at_home
from sana.context import Context
from sana.data.archives.backend import ArchiveBackend
from sana.data.archives.index import IndexFolder
from sana.data.captions.caption_layouts import Layout
from sana.data.decoder_log import called
from sana.data.sources.backends import Backend, LocalBackend, S3Backend
from sana.data.sources.digest_cache import DigestCache
from sana.data.sources.file_cache import FileCache
from sana.data.sources.hub import REPO_ID, HubRepo
from sana.data.sources.hub_backend import HubBackend
from sana.data.sources.listing import ARCHIVE_SUFFIXES, TABLE_SUFFIXES, SourceFile
from sana.data.sources.mask_files import PairedMasks
from sana.data.sources.outputs import NO_OUTPUTS, Outputs
from sana.data.sources.source_listing import SourceListing, list_source
from sana.data.sources.table_backend import TableBackend
from sana.errors import ConfigError, FullDiskExplained, error_prefix

HUB_PREFIX = "hf://datasets/"


class Source:
    """One data set. It is listed once, on first use; open another Source to see later changes.

    Thread-safe. A SanaError concerns the whole source and begins with `download.datasets[<id>]: `; an OSError or a
    UnicodeDecodeError concerns one file. Whatever needs the listing raises ConfigError when there is no video, or no
    file of the configured layout, and SanaError when it cannot be listed.
    """

    def __init__(self, dataset: DatasetConfig, backend: Backend, cache: FileCache) -> None:
        self.uri = dataset.source
        self.cache = cache
        self._dataset = dataset
        self._backend = backend
        self._lock = threading.Lock()
        self._cached_listing: SourceListing | None = None
        self.rows: np.ndarray | None = None  # of `videos`, those that a sample has; None: all are read

    @property
    def revision(self) -> str:
        """The commit of a Hugging Face data set; empty for a folder and for S3."""
        with self._lock, error_prefix(self._dataset.where):
            return self._backend.revision

    @property
    def base(self) -> str:
        """The prefix of absolute paths of its files; empty for a Hugging Face data set."""
        return self._backend.base

    @property
    def is_table(self) -> bool:
        """Whether the source is a table, not a folder."""
        return isinstance(self._backend, TableBackend)

    @property
    def is_local(self) -> bool:
        """Whether the files that hold its captions are on this machine."""
        return "://" not in self.uri

    @property
    def videos(self) -> pa.Table:
        """Table LISTED of the videos, sorted by path."""
        return self._listing().videos

    @property
    def caption_files(self) -> pa.Table:
        """Table LISTED of the files that hold captions: texts that share a video's stem, or tables, or lists."""
        return self._listing().caption_files

    @property
    def unused_files(self) -> pa.Table:
        """Table LISTED of all other files, which nothing reads; of a source that is a table none is looked for."""
        return self._listing().unused

    @property
    def masks(self) -> pa.Table:
        """Table LISTED of the masks of its videos, sorted by path."""
        return self._listing().masks

    @property
    def mask_of(self) -> PairedMasks:
        """Which of the masks each video has."""
        return self._listing().mask_of

    @property
    def layout(self) -> Layout:
        """The caption layout: the configured one or, for `auto`, the one found."""
        return self._listing().layout

    def listing_digest(self) -> str:
        """Return 32 hex digits that change when a video or caption file comes, goes or changes identity.

        Of files that are not read only the names and sizes count: they are written down, and change no clip.
        """
        packed = self._backend if isinstance(self._backend, ArchiveBackend) else None
        with self._lock, error_prefix(self._dataset.where):
            of_archives = packed and packed.listing_digest()  # no archive is read for it
        return of_archives or self._listing().digest

    def unread_archives(self) -> list[SourceFile]:
        """Return the archives that must be read whole, and fetched if they are remote, before anything is listed."""
        with self._lock, error_prefix(self._dataset.where):
            return self._backend.unread() if isinstance(self._backend, ArchiveBackend) else []

    def read_archives(self, report: Callable[[int, int], None]) -> None:
        """Read the archives that are not read yet; calls `report(done, total)` with numbers of archives."""
        with self._lock, error_prefix(self._dataset.where):
            if isinstance(self._backend, ArchiveBackend):
                self._backend.table(report)

    def archive_notes(self) -> list[str]:
        """Say what a user should know of which archives are read."""
        with self._lock, error_prefix(self._dataset.where):
            return self._backend.notes if isinstance(self._backend, ArchiveBackend) else []

    def digest(self, file: SourceFile) -> str:
        """Return a digest of a listed file's content. Only a local file is read for it; others have it in the listing.

        Raises:
            OSError: the file is missing, not readable, or being written.
        """
        with error_prefix(self._dataset.where), FullDiskExplained():
            return self._backend.digest(file)

    def read(self, file: SourceFile) -> bytes:
        """Return the bytes of a listed file.

        Raises:
            OSError: it is missing or not readable.
        """
        with error_prefix(self._dataset.where), FullDiskExplained():
            return self._backend.read(file)

    def open_file(self, file: SourceFile) -> AbstractContextManager[Path]:
        """Give a listed file as a local one, as `open_video` does."""
        return self._opened(file.path, self.digest(file))

    @contextmanager
    def naming(self, path: str) -> Iterator[None]:
        """Name, in a ConfigError, what a table of captions was made of where no file has its path."""
        try:
            yield
        except ConfigError as error:
            error.args = (str(error).replace(path, self.table_name(path)),)
            raise

    def table_name(self, path: str) -> str:
        """Return how messages name a table of captions: by what it was made of, where no file has its path."""
        made_of = self._backend.made_of(path) if isinstance(self._backend, ArchiveBackend) else ""
        return made_of or path

    def open_video(self, path: str, *, digest: str) -> AbstractContextManager[Path]:
        """Give a local file with that content, valid until the context ends. A remote one is fetched and cached.

        Raises (on entry):
            SanaError: the video has changed since it was listed, or cannot be fetched.
            OSError: a local file is not readable.
        """
        inside = path.removeprefix("s3://") if self.is_table else path
        if any(part in ("", ".", "..") for part in inside.split("/")):
            raise ValueError(f"path {path!r} does not name a file inside {self.uri}")
        return self._opened(path, digest)

    @contextmanager
    def _opened(self, path: str, digest: str) -> Iterator[Path]:
        with ExitStack() as stack:
            # not errors raised while the file is in use
            with error_prefix(self._dataset.where), FullDiskExplained():
                local = stack.enter_context(self._backend.open(path, digest=digest))
            with called(local, path):
                yield local

    def _listing(self) -> SourceListing:
        with self._lock, error_prefix(self._dataset.where):
            if self._cached_listing is None:
                self._cached_listing = list_source(self._backend, self._dataset)
            return self._cached_listing


def open_sources(
    config: Config, *, work_dir: Path, read_only: bool = False, rehash: bool = False
) -> Mapping[str, Source]:
    """Open all data sets of a config, by their ids. They share one cache of fetched videos and its budget.

    `rehash` reads each local file for its digest, whatever is stored.
    """
    download = config.download
    cache = FileCache(work_dir / "cache" / "videos", max_bytes=int(download.resources.cache_gib * 2**30))
    outputs = Outputs.of(config, work_dir)
    return {
        dataset.id: open_source(
            dataset, work_dir=work_dir, cache=cache, read_only=read_only, outputs=outputs, rehash=rehash
        )
        for dataset in map(config.resolved, download.enabled)
    }


def sources_of(context: Context) -> Mapping[str, Source]:
    """Open all data sets of a run's config: `context.once(sources_of)` are the same ones for planning and download."""
    return open_sources(context.config, work_dir=context.work_dir, read_only=context.read_only)


def fetch_summary(sources: Mapping[str, Source]) -> str:
    """Return what this process fetched, for a progress line: `1.2 GiB fetched, 40.0 MiB/s`, or "" if nothing."""
    return str(next(iter(sources.values())).cache.fetch_stats)


def open_source(
    dataset: DatasetConfig,
    *,
    work_dir: Path,
    cache: FileCache,
    read_only: bool = False,
    outputs: Outputs = NO_OUTPUTS,
    rehash: bool = False,
) -> Source:
    """Open a folder, `s3://bucket/prefix`, `hf://datasets/owner/name`, or a table or an archive in a folder or in S3.

    Fetched videos are kept in `cache`. `read_only` writes nothing under `work_dir` unless a remote file is read. A
    listing that would hold one of `outputs` is refused.

    Raises:
        ConfigError: another kind of source, or a folder that does not exist.
        StoreError: S3 does not answer or refuses.
    """
    with error_prefix(dataset.where):
        digests = DigestCache(work_dir / "cache" / "digests.sqlite", read_only=read_only, rehash=rehash)
        indexes = IndexFolder(work_dir / "cache" / "archives", read_only, rehash)
        hub = HubRepo("dataset", _hub_name(dataset.source), work_dir / "cache" / "hub", read_only)
        return _open(dataset, cache, digests, indexes, hub, outputs)


def _hub_name(uri: str) -> str:
    return uri.removeprefix(HUB_PREFIX).rstrip("/")


def _open(
    dataset: DatasetConfig,
    cache: FileCache,
    digests: DigestCache,
    indexes: IndexFolder,
    hub: HubRepo,
    outputs: Outputs,
) -> Source:
    uri, captions = dataset.source, dataset.captions
    is_table = uri.lower().endswith(TABLE_SUFFIXES)
    is_archive = uri.lower().endswith(ARCHIVE_SUFFIXES) and not is_table
    if is_table and captions.layout in ("textfile", "lines"):
        raise ConfigError(
            f"the source is a table, which holds its captions; captions.layout {captions.layout} is for a folder"
        )

    def bucket(name: str) -> S3Backend:
        return S3Backend(f"s3://{name}", cache, outputs)

    def folder(backend: LocalBackend | S3Backend | HubBackend) -> Source:
        if dataset.archives == "ignore":
            return Source(dataset, backend, cache)
        return Source(dataset, ArchiveBackend(backend, dataset, cache, indexes), cache)

    def file(name: str, beside: LocalBackend | S3Backend) -> Source:
        packed = ArchiveBackend(beside, dataset, cache, indexes, only=name)
        if is_archive or packed.holds_rows(name):
            return Source(dataset, packed, cache)
        return Source(dataset, TableBackend(name, beside, bucket, dataset), cache)

    if uri.startswith("s3://"):
        if is_table or is_archive:
            beside, _, name = uri.rpartition("/")
            return file(name, S3Backend(beside, cache, outputs))
        return folder(S3Backend(uri, cache, outputs))
    if uri.startswith(HUB_PREFIX) and REPO_ID.fullmatch(hub.id):
        return folder(HubBackend(hub, dataset.revision, cache))
    if "://" in uri:
        hub_page = re.match(r"https?://(?:huggingface\.co|hf\.co)/datasets/([^/?#]+/[^/?#]+)", uri)
        meant = f"{HUB_PREFIX}{hub_page[1]}" if hub_page else uri.removeprefix("file://")
        raise ConfigError(
            f"source {uri} is not one of: a local folder, s3://bucket/prefix, "
            f"{HUB_PREFIX}owner/name (a branch, tag or commit goes to `revision`), "
            f"or a {', '.join((*TABLE_SUFFIXES, *ARCHIVE_SUFFIXES[:-1]))} file, local or s3://"
            + (f"; did you mean {meant}?" if meant != uri else "")
        )
    path = at_home(uri).absolute()
    if (is_table or is_archive) and path.is_file():
        return file(path.name, LocalBackend(path.parent, digests, outputs))
    return folder(LocalBackend(path, digests, outputs))
