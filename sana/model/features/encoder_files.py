"""Find the encoder of features: a folder or a hub id becomes a path, a commit, its sizes and one digest. No torch."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sana.artifact import digest_of
from sana.config.encode import EncodeFeaturesConfig
from sana.config.places import at_home
from sana.costs.features import FeatureSizes
from sana.data.sources.digest_cache import DigestCache
from sana.data.sources.hub import REPO_ID, HubRepo
from sana.errors import ConfigError, SanaError
from sana.runtime.specs import ModelSource

CONFIG = "config.json"
_PICKLED = "pytorch_model.bin"  # of older checkpoints; torch reads tensors alone from it
_KEY = "encode_features.encoder"


@dataclass(frozen=True)
class EncoderRef:
    """An encoder as `from_pretrained` of transformers wants it: an absolute folder, or a hub id and its commit."""

    source: ModelSource
    digest: str  # of its config and weights: equal for equal files, wherever the folder is
    sizes: FeatureSizes


def resolve_encoder(config: EncodeFeaturesConfig, *, work_dir: Path, read_only: bool = False) -> EncoderRef:
    """Find the encoder, and read its config; no weight is downloaded. A folder's digests are cached.

    Raises:
        ConfigError: no such encoder, no right to read it (names its page and HF_TOKEN), or it lacks a file.
        SanaError: it is no DINOv2, the hub cannot be reached, or a file cannot be read.
    """
    folder = at_home(config.encoder).absolute()
    if folder.is_dir():
        digests = DigestCache(work_dir / "cache" / "digests.sqlite", read_only=read_only)
        names = [path.name for path in folder.iterdir() if path.is_file()]
        try:
            digest = _digest(str(folder), names, lambda name: digests.digest(folder / name))
            sizes = _sizes((folder / CONFIG).read_bytes(), str(folder / CONFIG))
        except OSError as error:
            raise SanaError(f"{_KEY} {folder} cannot be read: {error}") from error
        return EncoderRef(ModelSource(str(folder), None), digest, sizes)
    if folder.exists() or not REPO_ID.fullmatch(config.encoder):
        raise ConfigError(
            f"{_KEY} {config.encoder} is neither a folder nor a Hugging Face id (owner/name); name one, such as "
            "facebook/dinov2-giant"
        )
    repo = HubRepo("model", config.encoder, work_dir / "cache" / "hub", read_only)
    try:
        commit = repo.resolve(config.revision)
        files = {file.path: file for file in repo.list_files(commit)}
        digest = _digest(repo.page, list(files), lambda name: files[name].digest)
        repo.check_access(commit, _weights(list(files))[0])
        data = repo.read_range(commit, files[CONFIG], 0, files[CONFIG].num_bytes)
    except ConfigError as error:
        raise ConfigError(f"{_KEY}: {error}. (There is no folder {folder} either.)") from error
    return EncoderRef(ModelSource(config.encoder, commit), digest, _sizes(data, f"{repo.page}/{CONFIG}"))


def _digest(where: str, names: list[str], digest: Callable[[str], str]) -> str:
    """Return one digest of config and weights."""
    weights = _weights(names)
    missing = [CONFIG] if CONFIG not in names else []
    missing += [] if weights else [f"a .safetensors file or {_PICKLED}"]
    if missing:
        raise ConfigError(
            f"{_KEY} {where} lacks {' and '.join(missing)}; name a whole DINOv2 as transformers saves it, such as "
            "facebook/dinov2-giant"
        )
    return digest_of([[name, digest(name)] for name in (CONFIG, *weights)])


def _weights(names: list[str]) -> list[str]:
    """Return the files that transformers takes the weights from: safetensors where there are some."""
    found = sorted(name for name in names if "/" not in name and name.endswith(".safetensors"))
    return found or [name for name in names if name == _PICKLED]


def _sizes(data: bytes, where: str) -> FeatureSizes:
    try:
        found = json.loads(data)
    except ValueError as error:
        raise SanaError(f"{where} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise SanaError(f"{where} is no JSON object; is it the config of a model?")
    return FeatureSizes.of(found, where=where)
