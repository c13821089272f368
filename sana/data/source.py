"""Sources: the videos of a data set and the captions beside them, wherever they are."""

import hashlib
import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath

from sana.config.data import DatasetConfig
from sana.config.pipeline import Config
from sana.data.digest_cache import DigestCache
from sana.data.hub import REPO_ID, HubRepo
from sana.data.origins import (
    VIDEO_SUFFIXES,
    HubOrigin,
    LocalOrigin,
    Origin,
    S3Origin,
    SourceFile,
    is_video,
)
from sana.data.video_cache import VideoCache
from sana.errors import ConfigError

HUB_PREFIX = "hf://datasets/"


class Source:
    """One data set. It is listed once, when first asked; open another Source to see what changed since.

    Thread-safe. A SanaError concerns the whole source; what concerns one file is an OSError or UnicodeDecodeError.
    """

    def __init__(self, uri: str, origin: Origin) -> None:
        self.uri = uri
        self._origin = origin
        self._lock = threading.Lock()
        self._files: dict[str, SourceFile] | None = None

    @property
    def revision(self) -> str:
        """The commit of a Hugging Face data set; empty for a folder and for S3."""
        with self._lock:
            return self._origin.revision

    def listing(self) -> list[SourceFile]:
        """Return the videos, and the `.txt` files that share a video's name, sorted by path.

        Raises:
            ConfigError: there is no video, a name cannot be stored, or the source may not be read.
            SanaError: the source cannot be listed.
        """
        return list(self._listed().values())

    def listing_digest(self) -> str:
        """Return 32 hex digits: another when a listed file comes, goes, or changes its size or identity."""
        digest = hashlib.blake2b(digest_size=16)
        for file in self._listed().values():
            digest.update(f"{file.path}\0{file.num_bytes}\0{file.identity}\0".encode())
        return digest.hexdigest()

    def digest(self, file: SourceFile) -> str:
        """Return a digest of the file's content, the cheapest that can be trusted: only a local file is read.

        Raises:
            OSError: the file is gone, not readable, or being written.
        """
        return self._origin.digest(file)

    def read_text(self, path: str) -> str:
        """Return a listed caption file; a byte order mark is dropped.

        Raises:
            UnicodeDecodeError: it is not UTF-8.
            OSError: it is gone or not readable.
        """
        return self._origin.read(self._listed()[path]).decode("utf-8-sig")

    def open_video(self, path: str, *, digest: str) -> AbstractContextManager[Path]:
        """Give a local file with that content, valid until the context ends. A remote one is fetched and cached.

        Raises (on entry):
            SanaError: the video is not what was listed any more, or cannot be fetched.
            OSError: a local file is not readable.
        """
        if _leaves(path):
            raise ValueError(f"path {path!r} does not name a file inside {self.uri}")
        return self._origin.open(path, digest=digest)

    def _listed(self) -> dict[str, SourceFile]:
        with self._lock:
            if self._files is None:
                self._files = self._list()
            return self._files

    def _list(self) -> dict[str, SourceFile]:
        found = sorted(self._origin.files(), key=lambda file: file.path)
        stems = {PurePosixPath(file.path).with_suffix("") for file in found if is_video(file.path)}
        if not stems:
            raise ConfigError(
                f"source {self.uri} holds no video: no name, at any depth, ends in {', '.join(VIDEO_SUFFIXES)}"
            )
        files = [file for file in found if PurePosixPath(file.path).with_suffix("") in stems]
        for file in files:
            if _leaves(file.path) or not _is_unicode(file.path):
                raise ConfigError(
                    f"source {self.uri}: the name {file.path!r} is not UTF-8, or has an empty or '..' part; rename it"
                )
        return {file.path: file for file in files}


def open_sources(config: Config, *, work_dir: Path, read_only: bool = False) -> Mapping[str, Source]:
    """Open all data sets of a config, by their ids. They share one cache of fetched videos and its budget."""
    download = config.download
    cache_bytes = int(download.resources.cache_gib * 2**30)
    return {
        dataset.id: open_source(dataset, work_dir=work_dir, cache_bytes=cache_bytes, read_only=read_only)
        for dataset in download.enabled
    }


def open_source(dataset: DatasetConfig, *, work_dir: Path, cache_bytes: int, read_only: bool = False) -> Source:
    """Open a folder, `s3://bucket/prefix` or `hf://datasets/owner/name`.

    Fetched videos are kept in `work_dir/cache/videos`, at most `cache_bytes` of them and what is open. `read_only`
    writes nothing under `work_dir` unless a remote file is read.

    Raises:
        ConfigError: another kind of source, or a folder that is not there.
        StoreError: S3 does not answer or refuses.
    """
    uri = dataset.source
    cache = work_dir / "cache"
    videos = VideoCache(cache / "videos", max_bytes=cache_bytes)
    if uri.startswith("s3://"):
        return Source(uri, S3Origin(uri, videos))
    name = uri.removeprefix(HUB_PREFIX).rstrip("/")
    if uri.startswith(HUB_PREFIX) and REPO_ID.fullmatch(name):
        repo = HubRepo("dataset", name, cache / "hub", read_only)
        return Source(uri, HubOrigin(repo, dataset.revision, videos))
    if "://" in uri:
        raise ConfigError(
            f"download.datasets {dataset.id}: source {uri} is not one of: a local folder, s3://bucket/prefix, "
            f"{HUB_PREFIX}owner/name (a branch, tag or commit goes to `revision`)"
        )
    digests = DigestCache(cache / "digests.sqlite", read_only=read_only)
    return Source(uri, LocalOrigin(Path(uri).expanduser().absolute(), digests))


def _leaves(path: str) -> bool:
    return any(part in ("", ".", "..") for part in path.split("/"))


def _is_unicode(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:  # a name on the disk that is not UTF-8
        return False
    return True
