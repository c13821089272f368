"""Config of publishing: where a trained model or adapter goes, and what its card says that no artifact knows."""

import re
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from sana.config.places import is_below
from sana.config.section import Section

HUB = "hf://"
_REPO = re.compile(r"hf://([A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})", re.ASCII)
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")
_OURS = ("README.md", "training_config.yaml", "eval_loss.png")  # names that the stage itself gives files


class PublishResources(Section):
    stall_timeout_s: float = Field(
        7200.0,
        ge=1.0,
        le=604_800.0,
        description="end the upload when no file was finished for this long, seconds: more than the largest takes",
    )


class PublishConfig(Section):
    UNHASHED: ClassVar[frozenset[str]] = frozenset({"resources"})

    to: str = Field(
        min_length=1,
        description="hf://owner/name: a hub repository, made where it is not there; s3://bucket/prefix or a folder: a "
        "folder of its own in it for each publication",
    )
    what: Literal["final", "checkpoints"] = Field(
        "final",
        description="the trained weights; or also the EMA weights of each checkpoint that is kept, as branches of the "
        "repository, or folders, named step-00000500",
    )
    merged: bool = Field(
        False,
        description="of an adapter, also the whole model with it merged in, below merged/, where training made it",
    )
    private: bool = Field(
        True, description="of a hub repository; true: one that exists and is public is an error, before any upload"
    )
    dry_run: bool = Field(False, description="upload nothing: make the card and the list of files with their bytes")
    commit_message: str = Field("", max_length=200, description="of the hub's commit; empty: names run and step")
    title: str = Field("", max_length=200, description="of the card; empty: the repository's name")
    description: str = Field("", max_length=20_000, description="Markdown below the card's title")
    license: str | None = Field(
        None, description="of what is published, by the hub's identifier: apache-2.0, cc-by-nc-4.0, other"
    )
    license_name: str | None = Field(None, min_length=1, description="with license: other, its name")
    license_link: str | None = Field(None, min_length=1, description="with license: other, where its text is")
    base_model: str | None = Field(
        None, pattern=r"^[^/\s]+/[^/\s]+$", description="hub id of the base model, where model.path is a folder"
    )
    base_license: str | None = Field(None, min_length=1, description="licence of the base model, as its page gives it")
    licenses: dict[str, str] = Field({}, description="licence of each data set by its id, as they are to be quoted")
    tags: tuple[str, ...] = Field((), max_length=50, description="tags of the repository beside those of the card")
    extra_files: dict[str, str] = Field({}, description="more files to upload, name there: local path")
    resources: PublishResources = PublishResources()

    @field_validator("to")
    @classmethod
    def _is_a_place(cls, to: str) -> str:
        if to.startswith(HUB):
            if not _REPO.fullmatch(to) or ".." in to or "--" in to:
                raise ValueError(f"{to} names no model repository: write hf://owner/name")
        elif "://" in to and not to.startswith(("s3://", "file://")):
            raise ValueError(f"{to} is neither hf://owner/name, s3://bucket/prefix nor a folder")
        elif "@" in to.partition("://")[2]:
            raise ValueError("the address of a bucket has no user and password in it: they come from the environment")
        return to

    @field_validator("license")
    @classmethod
    def _is_an_identifier(cls, name: str | None) -> str | None:
        if name is not None and not _LICENSE.fullmatch(name):
            raise ValueError(
                f"{name!r} is no identifier of the hub's, which are of lower-case letters, digits, '.' and '-', such "
                "as apache-2.0; write other, and license_name and license_link"
            )
        return name

    @field_validator("extra_files")
    @classmethod
    def _are_files_of_a_repository(cls, files: dict[str, str]) -> dict[str, str]:
        for name in files:
            parts = name.split("/")
            if "" in parts or ".." in parts or "." in parts or ".git" in parts or "\\" in name:
                raise ValueError(f"{name!r} is no name of a file in a repository, such as docs/notes.md")
            if name in _OURS or parts[0] == "samples":
                raise ValueError(f"{name!r} is made by the stage itself; give it another name")
        return files

    @model_validator(mode="after")
    def _other_license_is_named(self) -> Self:
        named = self.license_name is not None or self.license_link is not None
        if named and self.license != "other":
            raise ValueError("license_name and license_link are for license: other; set that, or remove them")
        if self.license == "other" and not (self.license_name and self.license_link):
            raise ValueError("license: other needs license_name and license_link")
        return self

    def check(self, datasets: Sequence[str], places: Mapping[str, str]) -> None:
        """Check it against the ids of the data sets, and the places that hold what is the pipeline's own.

        Raises:
            ValueError: a licence is of no data set, or `to` is in one of the places.
        """
        if unknown := sorted(set(self.licenses) - set(datasets)):
            raise ValueError(f"publish.licenses names {unknown[0]!r}, and data sets are {', '.join(datasets)}")
        for name, place in places.items():
            if self.repository is None and is_below(self.to, place):
                raise ValueError(
                    f"publish.to {self.to} is in {name} {place}, which holds what this pipeline looks up and tidies; "
                    "name a place outside of it"
                )

    @property
    def repository(self) -> str | None:
        """The hub repository owner/name, or None."""
        return self.to.removeprefix(HUB) if self.to.startswith(HUB) else None
