"""Which places are in one another, by their names alone: none needs to exist."""

import os


def is_below(place: str, folder: str) -> bool:
    """Return whether a place is a folder, or in it; through links, and for uris by their text."""
    if "://" in place or "://" in folder:
        return f"{place.rstrip('/')}/".startswith(f"{folder.rstrip('/')}/")
    place, folder = (os.path.realpath(os.path.expanduser(path)) for path in (place, folder))
    return os.path.commonpath([place, folder]) == folder
