"""A cache of the hub's listings on disk: a commit never changes, so it is requested once."""

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from sana.atomic_io import atomic_write
from sana.errors import SanaError


@dataclass(frozen=True)
class HubFile:
    """A file of a commit. `digest` is "sha256:" and hex for an LFS file, "git:" and the blob id for any other."""

    path: str
    num_bytes: int
    digest: str

    @classmethod
    def listed(cls, path: str, num_bytes: int, sha256: str | None, blob_id: str) -> "HubFile":
        """Return a file as the hub lists it.

        Raises:
            SanaError: its name would leave the folder that it is fetched into.
        """
        if path.startswith("/") or ".." in path.split("/"):
            raise SanaError(f"the hub lists a file {path!r}, which would leave its folder; check HF_ENDPOINT")
        return cls(path, num_bytes, f"sha256:{sha256}" if sha256 else f"git:{blob_id}")


@dataclass(frozen=True)
class HubCache:
    """The cached commits and listings of one repository: in `folder`, and in the repository's Hugging Face cache.

    `read_only` does not write to `folder`; the Hugging Face cache is never written.
    """

    folder: Path
    hf_cache: Path
    read_only: bool

    def store_commit(self, revision: str, commit: str) -> None:
        self._store(f"refs/{quote(revision, safe='')}", commit)

    def commit(self, revision: str) -> str | None:
        """Return the commit that a branch or tag was when last requested, by this class or by `hf download`."""
        refs = [self.folder / "refs" / quote(revision, safe=""), self.hf_cache / "refs" / revision]
        existing = [ref for ref in refs if ref.is_file()]
        if not existing:
            return None
        return max(existing, key=lambda ref: ref.stat().st_mtime_ns).read_text(encoding="utf-8").strip()

    def store_files(self, commit: str, files: list[HubFile]) -> None:
        self._store(f"trees/{commit}.json", json.dumps([[file.path, file.num_bytes, file.digest] for file in files]))

    def files(self, commit: str) -> list[HubFile] | None:
        """Return the files of a commit, if it was listed here or by `hf download`; else None."""
        with suppress(FileNotFoundError, ValueError):
            text = (self.folder / "trees" / f"{commit}.json").read_text(encoding="utf-8")
            return [HubFile(path, num_bytes, digest) for path, num_bytes, digest in json.loads(text)]
        with suppress(FileNotFoundError, ValueError):
            tree = json.loads((self.hf_cache / "trees" / f"{commit}.json").read_text(encoding="utf-8"))
            if tree.get("format_version") == 1:  # not a snapshot's folder, which lacks what was not downloaded
                return [
                    HubFile.listed(path, entry["size"], entry.get("lfs_sha256"), entry["blob_id"])
                    for path, entry in tree["files"].items()
                ]
        return None

    def _store(self, key: str, text: str) -> None:
        if self.read_only:
            return
        with atomic_write(self.folder / key) as temp:
            temp.write_text(text, encoding="utf-8")
