"""Outputs among inputs: a source whose listing would hold what this pipeline writes is refused.

Else the next run would train on the samples of this one, silently. A hidden folder inside a source is never listed, so
`source: .` with `root: .sana/store` is fine; so is a source in a folder of the root that is no stage's.
"""

import importlib.util
import os
import re
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from sana.config.pipeline import Config
from sana.config.places import path_below
from sana.data.sources.listing import is_hidden
from sana.errors import ConfigError
from sana.store import local_root

# written below work_dir; TemporaryDirectories begin with worker-
_WORK_FOLDERS = {"cache", "crash_journals", "inspect", "jobs", "locks", "logs", "mlflow-artifacts", "prefect", "train"}
_COMMIT = r"(^|/)[a-z_]+/[0-9a-f]{16}/artifact(\.\d{4})?\.json\z"


@dataclass(frozen=True)
class Output:
    """A place that is written: the setting that names it, and its real path or `s3://bucket/prefix`."""

    setting: str
    path: str

    def writes(self, inside: str) -> bool:
        """Whether a path below it, relative to it, is one of those that are written."""
        first = inside.partition("/")[0]
        if self.setting == "root":
            return first.isidentifier() and importlib.util.find_spec(f"sana.stages.{first}") is not None
        if self.setting == "work_dir":
            return first in _WORK_FOLDERS or first.startswith("worker-")
        if self.setting == "publish.to":  # samples are videos
            return bool(re.match(r"step-\d{8}-", first))
        return self.setting == "tracking.uri"


@dataclass(frozen=True)
class Outputs:
    """All that a run writes, or reads as its model."""

    places: tuple[Output, ...] = ()

    @classmethod
    def of(cls, config: Config, work_dir: Path) -> "Outputs":
        """Return the outputs of a config, as real paths: links are followed, `~` and relative paths resolved."""
        root = config.root
        places = [Output("root", root.rstrip("/") if root.startswith("s3://") else os.path.realpath(local_root(root)))]
        places.append(Output("work_dir", os.path.realpath(work_dir)))
        model = os.path.realpath(os.path.expanduser(config.model.path))
        if os.path.isdir(model):
            places.append(Output("model.path", model))
        if config.publish is not None and config.publish.repository is None:
            to = config.publish.to
            folder = to.rstrip("/") if to.startswith("s3://") else os.path.realpath(local_root(to))
            places.append(Output("publish.to", folder))
        tracking = config.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI", "")
        if tracking.startswith("file:/"):  # it has copies of sampled videos
            path = re.sub("^file:/+", "/", tracking)
            places.append(Output("tracking.uri", os.path.realpath(path)))
        return cls(tuple(places))

    def check(self, source: str, folder: str, *, link: str = "") -> None:
        """Check a folder that is listed whole: the source's own or, below it, one that a `link` leads to.

        Args:
            source: as messages name it.
            folder: its real path, or `s3://bucket/prefix`.

        Raises:
            ConfigError: an output is in it and is not hidden there, or it is in an output.
        """
        for place in self.places:
            inside = path_below(place.path, folder)
            if inside is not None and not is_hidden(inside):
                through = f", through the link {link}" if link else ""
                raise ConfigError(
                    f"source {source} holds {place.setting} {place.path}{through}: the next run would train on what "
                    f"is written there. Set {place.setting} to a folder outside of the source, or source to one that "
                    "holds the videos alone"
                )
        self.check_file(source, folder, link=link)

    def check_file(self, source: str, path: str, *, link: str = "") -> None:
        """Check a file that is listed, or where a `link` leads. Raises as `check` does."""
        for place in self.places:
            inside = path_below(path, place.path)
            if inside and place.writes(inside):
                through = f", through the link {link}" if link else ""
                raise ConfigError(
                    f"source {source} reads {path}{through}, and this pipeline writes there, as {place.setting} is "
                    f"{place.path}: it would train on its own output. Copy the videos to a folder of their own, or "
                    f"choose another {place.setting}"
                )


NO_OUTPUTS = Outputs()


def check_outside_sources(config: Config, path: Path, option: str) -> None:
    """Check a file or folder that a command is to write, as `option` names it, against the folders of the data sets.

    Raises:
        ConfigError: a listing would hold it.
    """
    real = os.path.realpath(path)
    for dataset in config.download.enabled:
        folder = os.path.realpath(os.path.expanduser(dataset.source))
        inside = path_below(real, folder) if "://" not in dataset.source and os.path.isdir(folder) else None
        if inside is not None and not is_hidden(inside):
            raise ConfigError(
                f"{option} {path} lies in the source of {dataset.where}, {folder}: the next run would train on it. "
                "Name a place outside of it"
            )


def check_no_artifacts(source: str, listed: pa.Table) -> None:
    """Check that no artifact is among listed files: of an earlier root, or of one that is reached by another name.

    Raises:
        ConfigError: names the first one.
    """
    paths = listed.column("path")
    found = paths.filter(pc.match_substring_regex(paths, _COMMIT))
    if len(found):
        first = found[0].as_py()
        root = "/".join(first.split("/")[:-3])
        raise ConfigError(
            f"source {source} holds artifacts of this pipeline, as {first}: their sampled videos would be trained on. "
            f"Move {root or 'them'} out of the source, or set source to a folder that holds the videos alone"
        )
