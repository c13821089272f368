"""Sana Video, trained stage by stage. `sana.open_run(root)` reads what was trained; all else is below."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sana.runs.reader import RunReader as RunReader
    from sana.runs.reader import open_run as open_run

__all__ = ["RunReader", "open_run"]


def __getattr__(name: str) -> Any:
    """Import the public names when they are asked for: every module of the package passes through here."""
    if name in __all__:
        from sana.runs import reader

        return getattr(reader, name)
    raise AttributeError(f"module 'sana' has no attribute {name!r}")
