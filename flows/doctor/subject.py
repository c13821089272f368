"""What is examined: a config and its places, or the defaults where there is none."""

import os
from dataclasses import dataclass
from pathlib import Path

from sana.config.pipeline import Config
from sana.config.places import at_home


@dataclass(frozen=True)
class Subject:
    """`config` is None where none is named, or where it cannot be read."""

    config: Config | None
    root: str = ".sana/store"
    work_dir: Path = Path(".sana")

    @classmethod
    def of(cls, config: Config) -> "Subject":
        return cls(config, config.root, Path(config.work_dir))

    @property
    def device(self) -> str:
        return "auto" if self.config is None else self.config.train.resources.device

    @property
    def s3_places(self) -> list[str]:
        """The settings that name a place in S3."""
        if self.config is None:
            return []
        places = {"root": self.root}
        places |= {dataset.where: dataset.source for dataset in self.config.download.enabled}
        if self.config.publish is not None:
            places["publish.to"] = self.config.publish.to
        return [name for name, place in places.items() if place.startswith("s3://")]

    @property
    def hub_places(self) -> list[str] | None:
        """The settings that name something on the hub; None without a config."""
        if self.config is None:
            return None
        path = self.config.model.path
        places = ["model.path"] if not at_home(path).exists() else []
        return places + [one.where for one in self.config.download.enabled if one.source.startswith("hf://")]

    @property
    def s3_endpoint(self) -> str:
        """The address of S3: AWS_ENDPOINT_URL, or AWS itself."""
        own = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        return own or "https://s3.amazonaws.com"
