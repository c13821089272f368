"""Read the config files of a model, and nothing else of it: what its sizes are is known without a weight."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sana.config.encode import ModelConfig
from sana.config.places import at_home
from sana.costs.text import TextSizes
from sana.costs.transformer import TransformerSizes
from sana.costs.vae import VaeSizes
from sana.data.sources.hub import REPO_ID, HubRepo
from sana.errors import ConfigError, SanaError
from sana.record import JsonObject

SIZED = ("transformer", "vae", "text_encoder")  # components whose config.json gives their sizes


@dataclass(frozen=True)
class ModelSizes:
    """The sizes of a model's three networks, and the config files that gave them."""

    configs: Mapping[str, JsonObject]
    transformer: TransformerSizes
    vae: VaeSizes
    text_encoder: TextSizes


def read_model_sizes(config: ModelConfig, *, work_dir: Path, read_only: bool = False) -> ModelSizes:
    """Read the config.json of transformer, VAE and text encoder, of a folder or of the hub.

    Raises:
        ConfigError: there is no such model, or it lacks one of the files.
        SanaError: a file is no JSON object or lacks a size, or the hub cannot be reached.
    """
    configs = {name: _parsed(data, where) for name, (data, where) in _files(config, work_dir, read_only).items()}
    return sizes_of(configs, where=config.path)


def sizes_of(configs: Mapping[str, Mapping[str, Any]], *, where: str) -> ModelSizes:
    """Return the sizes that config files give. Raises SanaError: one is missing."""
    return ModelSizes(
        configs,
        TransformerSizes.of(configs["transformer"], where=f"{where}/transformer/config.json"),
        VaeSizes.of(configs["vae"], where=f"{where}/vae/config.json"),
        TextSizes.of(configs["text_encoder"], where=f"{where}/text_encoder/config.json"),
    )


def _files(config: ModelConfig, work_dir: Path, read_only: bool) -> dict[str, tuple[bytes, str]]:
    folder = at_home(config.path).absolute()
    if folder.is_dir():
        paths = {name: folder / name / "config.json" for name in SIZED}
        _check([str(path) for path in paths.values() if not path.is_file()])
        try:
            return {name: (path.read_bytes(), str(path)) for name, path in paths.items()}
        except OSError as error:
            raise SanaError(f"model {folder} cannot be read: {error}") from error
    if not REPO_ID.fullmatch(config.path):
        raise ConfigError(f"model.path {config.path} is neither a folder nor a Hugging Face id (owner/name); name one")
    repo = HubRepo("model", config.path, work_dir / "cache" / "hub", read_only)
    commit = repo.resolve(config.revision)
    listed = {file.path: file for file in repo.list_files(commit)}
    names = {name: f"{name}/config.json" for name in SIZED}
    _check([f"{repo.page}/{path}" for path in names.values() if path not in listed])
    return {
        name: (repo.read_range(commit, listed[path], 0, listed[path].num_bytes), f"{repo.page}/{path}")
        for name, path in names.items()
    }


def _check(missing: list[str]) -> None:
    if missing:
        raise ConfigError(f"the model's sizes are not known: it lacks {', '.join(missing)}; name a whole checkpoint")


def _parsed(data: bytes, where: str) -> JsonObject:
    try:
        found = json.loads(data)
    except ValueError as error:
        raise SanaError(f"{where} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise SanaError(f"{where} is no JSON object; is the model in diffusers layout?")
    return found
