"""Artifacts: the committed outputs of stages, their fingerprints, and why a stage must run again.

A stage's output lives at `<root>/<stage>/<fingerprint>/`; it is finished when `artifact.json`, written last, is there.
"""

import hashlib
import importlib.metadata
import json
import logging
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar, Self

from sana.counts import Counts
from sana.errors import SanaError
from sana.record import JsonObject, Record
from sana.store import Store

_log = logging.getLogger(__name__)


def digest_of(value: object) -> str:
    """Return a 128-bit hex digest of plain JSON values, the same for any order of keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class Recipe:
    """All that determines the content of a stage's artifact: nothing else may.

    `config` holds the settings that change bytes; `inputs` maps the name of each input to its content digest.
    """

    stage: str
    version: int
    config: Mapping[str, object]
    inputs: Mapping[str, str]

    @property
    def fingerprint(self) -> str:
        """16 hex digits that name the artifact."""
        return digest_of([self.stage, self.version, self.config, self.inputs])[:16]


@dataclass(frozen=True)
class FileInfo(Record):
    """One file of an artifact: key relative to the root, size, and digest for `verify` only."""

    key: str
    num_bytes: int
    digest: str


@dataclass(frozen=True)
class Artifact(Record):
    """The committed output of one stage.

    `content` maps a view of the rows (what a later stage reads) to its digest: it is what fingerprints downstream
    are made of, so two artifacts with equal content are interchangeable. `facts` is read by the stage's own class, see
    `Facts`.
    """

    FORMAT: ClassVar[int] = 2
    stage: str
    fingerprint: str
    version: int
    config: JsonObject
    inputs: Mapping[str, str]
    content: Mapping[str, str]
    counts: Counts
    files: Mapping[str, FileInfo]
    facts: JsonObject = field(default_factory=dict)
    seconds: float = 0.0
    created_at: float = 0.0
    code_version: str = ""
    reproduced: bool = False  # a forced run that gave the same content; never stored

    @property
    def key(self) -> str:
        """Folder of the artifact, relative to the root."""
        return f"{self.stage}/{self.fingerprint}"

    def _stored(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if name != "reproduced"}


@dataclass(frozen=True)
class Facts(Record):
    """The base of the facts that a stage records about its artifact: one closed record per stage, in `sana/facts.py` or
    in a module of its own. `artifact.json` holds it as a plain object.
    """

    STAGE: ClassVar[str]

    @classmethod
    def of(cls, artifact: Artifact) -> Self:
        """Read the facts of an artifact of this stage.

        Raises:
            SanaError: they are damaged or of another version; names the artifact.
        """
        if artifact.stage != cls.STAGE:
            raise ValueError(f"{cls.__name__} are of stage {cls.STAGE}; {artifact.key} is another")
        hint = f"make it again: sana run CONFIG --force {cls.STAGE}"
        return cls.from_value(dict(artifact.facts), where=f"`facts` of {artifact.key}", repair_hint=hint)

    @classmethod
    def find(cls, artifact: Artifact) -> Self | None:
        """Return the facts of an artifact if it is of this stage, else None. Raises as `of` does."""
        return cls.of(artifact) if artifact.stage == cls.STAGE else None


class Draft:
    """An artifact being written: files go to an attempt-unique folder, `commit` makes them an artifact."""

    def __init__(self, store: Store, recipe: Recipe, *, forced: bool = False) -> None:
        self.store = store
        self.forced = forced
        self.recipe = recipe
        self._files: dict[str, FileInfo] = {}
        self._attempt = uuid.uuid4().hex[:12]
        self._started = time.monotonic()

    @property
    def files(self) -> dict[str, FileInfo]:
        """The files so far, by name."""
        return dict(self._files)

    def add(self, name: str, data: bytes) -> str:
        """Write one small file; returns its key."""
        key = f"{self.recipe.stage}/{self.recipe.fingerprint}/{self._attempt}/{name}"
        if not self.store.put_if_absent(key, data):
            raise SanaError(f"{self.store.uri(key)} was written by somebody else; run again")
        self.refer(name, key, num_bytes=len(data), digest=hashlib.blake2b(data, digest_size=16).hexdigest())
        return key

    def refer(self, name: str, key: str, *, num_bytes: int, digest: str) -> None:
        """Make a file that is in the store already part of this artifact."""
        self._files[name] = FileInfo(key, num_bytes, digest)

    def commit(self, *, content: Mapping[str, str], counts: Counts, facts: Facts | None = None) -> Artifact:
        """Publish the artifact, last of all. If another run was first, or the stage was forced, the newest holds.

        Returns:
            The artifact that is in effect from now on.
        """
        if facts is not None and self.recipe.stage != facts.STAGE:
            raise ValueError(f"{type(facts).__name__} are of stage {facts.STAGE}, not of {self.recipe.stage}")
        artifact = Artifact(
            stage=self.recipe.stage,
            fingerprint=self.recipe.fingerprint,
            version=self.recipe.version,
            config=json.loads(json.dumps(self.recipe.config)),
            inputs=dict(self.recipe.inputs),
            content=dict(content),
            counts=counts,
            files=dict(self._files),
            facts=facts.to_value() if facts is not None else {},
            seconds=round(time.monotonic() - self._started, 3),
            created_at=round(time.time(), 3),
            code_version=importlib.metadata.version("sana-video-pipeline"),
        )
        for _ in range(100):
            commits, same = _commit_keys(self.store, artifact.key), False
            if commits:
                current = _read(self.store, commits[-1])
                same = current.content == artifact.content
                if same and not self.forced:
                    return replace(current, reproduced=True)
            key = f"{artifact.key}/{_commit_name(len(commits))}"
            if self.store.put_if_absent(key, artifact.to_json(sort_keys=True)):
                if commits and same:  # new files beside the old ones, which may be damaged and are no longer read
                    artifact = replace(artifact, reproduced=True)
                elif commits:
                    _log.warning(
                        "%s: the same recipe gave other content than before; the new one is in effect beside %s. "
                        "If the code was changed on purpose, and no file behind it, raise VERSION in sana/stages/%s.py",
                        artifact.key, commits[-1], artifact.stage,
                    )  # fmt: skip
                stamp = f"{int(artifact.created_at * 1000):014d}"
                self.store.put_if_absent(f"{artifact.stage}/history/{stamp}-{artifact.fingerprint}", b"")
                return artifact
        raise SanaError(f"cannot commit {self.store.uri(artifact.key)}: others keep committing it; run again later")


def _commit_name(number: int) -> str:
    return "artifact.json" if number == 0 else f"artifact.{number:04d}.json"


def _commit_keys(store: Store, key: str) -> list[str]:
    """Return the keys of an artifact's commit files, oldest first."""
    keys: list[str] = []
    while store.exists(f"{key}/{_commit_name(len(keys))}"):
        keys.append(f"{key}/{_commit_name(len(keys))}")
    return keys


def _read(store: Store, key: str) -> Artifact:
    return Artifact.from_json(store.read(key), where=store.uri(key))


def find(store: Store, recipe: Recipe) -> Artifact | None:
    """Return the committed artifact of this recipe, or None."""
    commits = _commit_keys(store, f"{recipe.stage}/{recipe.fingerprint}")
    return _read(store, commits[-1]) if commits else None


def newest_commit(store: Store, key: str) -> Artifact | None:
    """Return the artifact at this folder, `<stage>/<fingerprint>`, as it was committed last, or None."""
    commits = _commit_keys(store, key)
    return _read(store, commits[-1]) if commits else None


def history(store: Store, stage: str) -> Iterator[Artifact]:
    """Yield the artifacts of this stage, whatever their recipes, that which was committed last first."""
    for key, _ in reversed(store.list(f"{stage}/history")):
        commits = _commit_keys(store, f"{stage}/{key.rpartition('-')[2]}")
        if commits:
            yield _read(store, commits[-1])


def latest(store: Store, stage: str) -> Artifact | None:
    """Return the artifact of this stage that was committed last, whatever its recipe, or None."""
    return next(history(store, stage), None)


def config_diff(recipe: Recipe, before: Artifact | None) -> list[str]:
    """Say what differs between a recipe and an earlier artifact of its stage, one short phrase each."""
    if before is None:
        return []
    changed: list[str] = []
    if before.version != recipe.version:
        changed.append(f"stage version {before.version} -> {recipe.version}")
    old, new = _flatten(before.config), _flatten(recipe.config)
    names = sorted(key for key in old | new if old.get(key) != new.get(key))
    # an item that was added to a list or removed from it is one change, not one for each of its keys
    added_or_removed = tuple(f"{item}." for item in _list_items(before.config) ^ _list_items(recipe.config))
    names = [key for key in names if not key.startswith(added_or_removed)]
    changed += [f"{key} {_as_in_yaml(old.get(key))} -> {_as_in_yaml(new.get(key))}" for key in names]
    names = sorted({**before.inputs, **recipe.inputs})
    changed += [f"input {name} changed" for name in names if before.inputs.get(name) != recipe.inputs.get(name)]
    return changed


def flat_config(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings of an artifact or recipe by dotted key, as they are written in YAML."""
    return {key: _as_in_yaml(value) for key, value in _flatten(config).items()}


def _as_in_yaml(value: Any) -> str:
    if value is None:
        return "(not set)"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return {dotted key: value}; of a list of items with ids, those in order, and each item's keys below its id."""
    if isinstance(value, Mapping):
        return {k: v for name, child in value.items() for k, v in _flatten(child, f"{prefix}{name}.").items()}
    if isinstance(value, list | tuple):
        if not (ids := _item_ids(value)):
            return {prefix[:-1]: json.dumps(value, default=str, sort_keys=True)}  # stored JSON has its keys sorted
        below = _flatten(dict(zip(ids, value, strict=True)), prefix)
        return {prefix[:-1]: json.dumps(ids)} | {key: v for key, v in below.items() if not key.endswith(".id")}
    return {prefix[:-1]: value}


def _item_ids(value: Sequence[Any]) -> list[str]:
    ids = [item["id"] for item in value if isinstance(item, Mapping) and "id" in item]
    return ids if len(ids) == len(value) else []


def _list_items(config: Mapping[str, Any]) -> set[str]:
    """Return `<key>.<id>` of each item with an id, in lists at the top of a config."""
    lists = {key: value for key, value in config.items() if isinstance(value, list | tuple)}
    return {f"{key}.{name}" for key, value in lists.items() for name in _item_ids(value)}
