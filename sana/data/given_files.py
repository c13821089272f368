"""The files that a sampled video is given a part of, digested when a run is planned."""

import hashlib

from sana.config.places import at_home
from sana.config.sample import GivenVideoConfig
from sana.errors import ConfigError


def given_digest(given: GivenVideoConfig, *, where: str) -> dict[str, str]:
    """Return the digests of the files, by what they are. Raises ConfigError: one is not there, or cannot be read."""
    files = {"video": given.path} | ({"mask": given.mask} if given.mask else {})
    return {what: _digest(path, where=f"{where}.{'path' if what == 'video' else what}") for what, path in files.items()}


def _digest(path: str, *, where: str) -> str:
    digest = hashlib.blake2b(digest_size=16)
    try:
        with at_home(path).open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise ConfigError(f"{where}: {path} cannot be read: {error.strerror}; name a local file") from error
    return digest.hexdigest()
