"""A store for tests of maintenance: the demo up to train, its keys by kind, and damage to one of them."""

from pathlib import Path

from sana.context import Context
from sana.maintenance.object_graph import kind_of
from sana.store import LocalStore, Store
from tests.pipeline_runs import Place


def context_of(place: Place, *overrides: str) -> Context:
    """The demo's context with two training steps."""
    return place.context("train.max_steps=2", *overrides)


def store_of(place: Place) -> LocalStore:
    return LocalStore(place.root)


def content(store: Store) -> dict[str, bytes]:
    """Every object, by key."""
    return {key: store.read(key) for key, _ in store.list("")}


def only(store: Store, kind: str, stage: str) -> str:
    """Return the first key of a kind in a stage's folder."""
    return next(key for key, _ in store.list(stage) if kind_of(key) == kind)


def flip(path: Path, at: int) -> None:
    """Damage one bit of the byte at `at`."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
