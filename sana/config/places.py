"""Which places are in one another, by their names alone: none needs to exist."""

import os
from pathlib import Path


def at_home(path: str | Path) -> Path:
    """Return a path as a user means it: `~` and `~name` at its beginning are home folders, and `./~name` is a name.

    A `~name` of no user is a name too, as in a shell.
    """
    return Path(os.path.expanduser(path))


def is_below(place: str, folder: str) -> bool:
    """Return whether a place is a folder, or in it; through links, and for uris by their text."""
    if "://" in place or "://" in folder:
        place, folder = place.rstrip("/"), folder.rstrip("/")
    else:
        place, folder = (os.path.realpath(os.path.expanduser(path)) for path in (place, folder))
    return path_below(place, folder) is not None


def path_below(path: str, folder: str) -> str | None:
    """Return a path relative to a folder that holds it, "" for the folder itself; None if it is elsewhere.

    Both are real paths, or uris without a final "/".
    """
    if path == folder:
        return ""
    prefix = folder if folder.endswith("/") else f"{folder}/"  # of "/" as well
    return path[len(prefix) :] if path.startswith(prefix) else None
