"""Resolve a model: a folder or a hub id becomes a path, a commit and one digest per component."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from sana.config.encode import ModelConfig
from sana.config.places import at_home
from sana.data.sources.digest_cache import DigestCache
from sana.data.sources.hub import REPO_ID, HubRepo
from sana.errors import ConfigError, SanaError
from sana.runtime.specs import ModelSource

COMPONENTS = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")
CONFIGURED = ("transformer", "vae", "text_encoder")  # components that cannot be loaded without a config.json
INDEX = "model_index.json"

_SUFFIXES = {".bin", ".jinja", ".json", ".model", ".safetensors", ".txt"}  # what a loader may read, so no model card


@dataclass(frozen=True)
class ModelRef:
    """A model in diffusers layout, as `from_pretrained(path, revision=revision)` wants it.

    `path` is an absolute folder or a hub id, `revision` the commit of a hub model. `digests` has one entry per
    component: equal for equal files, wherever the folder is. A folder and a hub id have different digests.
    """

    path: str
    revision: str | None
    digests: Mapping[str, str]


def resolve_model(config: ModelConfig, *, work_dir: Path, read_only: bool = False, rehash: bool = False) -> ModelRef:
    """Find the model and digest its components; nothing is downloaded. A folder's digests are cached, unless `rehash`.

    Raises:
        ConfigError: no such model, no right to read it (names its page and HF_TOKEN), or not in diffusers layout.
        SanaError: the hub cannot be reached, or a file of the folder cannot be read.
    """
    folder = at_home(config.path).absolute()
    if folder.is_dir():
        digests = DigestCache(work_dir / "cache" / "digests.sqlite", read_only=read_only, rehash=rehash)
        names = [str(path.relative_to(folder)) for path in folder.glob("*/*") if path.is_file()]
        top = [INDEX] if (folder / INDEX).is_file() else []
        try:
            return ModelRef(
                str(folder), None, _digests(str(folder), names + top, lambda name: digests.digest(folder / name))
            )
        except OSError as error:
            raise SanaError(f"model {folder} cannot be read: {error}") from error
    if folder.exists() or not REPO_ID.fullmatch(config.path):
        raise ConfigError(
            f"model.path {config.path} is neither a folder nor a Hugging Face id (owner/name). "
            "Name one; `sana make-tiny-model OUT` makes a tiny model in the folder OUT"
        )
    repo = HubRepo("model", config.path, work_dir / "cache" / "hub", read_only)
    try:
        commit = repo.resolve(config.revision)
        listed = {file.path: file.digest for file in repo.list_files(commit)}
        digested = _digests(repo.page, list(listed), listed.__getitem__)
        repo.check_access(commit, next((name for name in sorted(listed) if name.endswith(".safetensors")), INDEX))
    except ConfigError as error:
        raise ConfigError(f"{error}. (There is no folder {folder} either.)") from error
    return ModelRef(config.path, commit, digested)


def component_digest(folder: Path, component: str, *, work_dir: Path, read_only: bool = False) -> str:
    """Return the digest of one component of a model in a folder; those of its files are cached.

    Raises:
        ConfigError: the folder has no such component.
        SanaError: a file cannot be read.
    """
    names = sorted(str(path.relative_to(folder)) for path in folder.glob(f"{component}/*") if path.is_file())
    names = [name for name in names if _belongs_to(component, name)]
    if f"{component}/config.json" not in names:
        raise ConfigError(
            f"{folder} holds no {component}/config.json: name a folder in diffusers layout, such as that of "
            "`sana export-model`, or FINGERPRINT[@STEP] of an earlier training"
        )
    digests = DigestCache(work_dir / "cache" / "digests.sqlite", read_only=read_only)
    try:
        return _digest_of([(name, digests.digest(folder / name)) for name in names])
    except OSError as error:
        raise SanaError(f"model {folder} cannot be read: {error}") from error


def source_of(model: ModelRef) -> ModelSource:
    """Return what a worker needs to load a model."""
    return ModelSource(model.path, model.revision)


def local_checkpoint(path: str, *, revision: str | None = None) -> str:
    """Return a checkpoint as a local folder: `path` itself, or, for a hub id, the cache it is downloaded to."""
    if Path(path).is_dir():
        return path
    from diffusers import SanaVideoPipeline  # seconds to import: only for what is on the hub

    return str(SanaVideoPipeline.download(path, revision=revision))


def base_files(folder: str, *, without: str) -> dict[str, Path]:
    """Return the files of a model in diffusers layout by name, but those of one component; `model_index.json` as well.

    Raises:
        FileNotFoundError: it is not a local folder in diffusers layout.
    """
    base = Path(folder)
    if not (base / INDEX).is_file():
        raise FileNotFoundError(f"{base} has no {INDEX}; need a local diffusers-layout folder to export from")
    index = json.loads((base / INDEX).read_text())
    files = {INDEX: base / INDEX}
    for name, kind in sorted(index.items()):
        # a component is [library, class]; null ones and "_class_name" and the like have no folder
        if isinstance(kind, list) and kind[0] is not None and name != without:
            paths = sorted(path for path in (base / name).rglob("*") if path.is_file())
            files |= {path.relative_to(base).as_posix(): path for path in paths}
    return files


def _digests(where: str, names: list[str], digest: Callable[[str], str]) -> dict[str, str]:
    """Return the digest of each component's files, by component."""
    files = {component: [name for name in sorted(names) if _belongs_to(component, name)] for component in COMPONENTS}
    missing = [f"{component}/" for component in COMPONENTS if not files[component]]
    missing += [f"{part}/config.json" for part in CONFIGURED if files[part] and f"{part}/config.json" not in names]
    if INDEX not in names:
        missing.insert(0, INDEX)
    if missing:
        raise ConfigError(
            f"model {where} is not a whole checkpoint in diffusers layout: it lacks {', '.join(missing)}. "
            "Name a complete one; `sana make-tiny-model OUT` makes a tiny one in the folder OUT"
        )
    return {component: _digest_of([(name, digest(name)) for name in files[component]]) for component in COMPONENTS}


def _belongs_to(component: str, name: str) -> bool:
    path = PurePosixPath(name)
    return str(path.parent) == component and path.suffix in _SUFFIXES and not path.name.startswith(".")


def _digest_of(files: list[tuple[str, str]]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name, content in files:
        digest.update(f"{name}\0{content}\0".encode())
    return digest.hexdigest()
