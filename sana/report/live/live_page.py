"""A page of the live view as data: parts of markup that are sent again, each by itself, when they change."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

NOTICE = "notice"  # the part that says why the others may be old
Kind = Literal["overview", "runs", "run", "training", "compare"]


@dataclass(frozen=True)
class Topic:
    """What a page is about: its kind, the name of its run or training, and the choices of its query string."""

    kind: Kind
    key: str = ""
    query: tuple[tuple[str, str], ...] = ()

    def choice(self, name: str, default: str = "") -> str:
        """Return what the query string says of `name`."""
        return dict(self.query).get(name, default)


@dataclass(frozen=True)
class LivePage:
    """The markup of a page's parts by their ids, in order; `document`: the whole page as it is first sent."""

    title: str
    parts: Mapping[str, str]

    @cached_property
    def digests(self) -> dict[str, str]:
        """A short digest of each part, by which a reader says what it has."""
        return {name: hashlib.blake2b(html.encode(), digest_size=6).hexdigest() for name, html in self.parts.items()}
