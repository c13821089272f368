"""A local picture that a setting names: digested when a run is planned, opened when it is used."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image, UnidentifiedImageError

from sana.config.places import at_home
from sana.errors import ConfigError

# what Pillow raises of files that are no pictures, and of damaged ones
_NO_PICTURE = (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError)


@contextmanager
def opened_picture(path: str, *, where: str) -> Iterator[Image.Image]:
    """Open a picture; what the caller reads of it may raise too. `where` names the setting that names it.

    Raises:
        ConfigError: it is not there, cannot be read, or is no picture.
    """
    try:
        with Image.open(at_home(path)) as picture:
            yield picture
    except FileNotFoundError as error:
        raise ConfigError(f"{where}: there is no file {path}; name a local picture, such as first.png") from error
    except _NO_PICTURE as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"{where}: {path} cannot be read as a picture ({said}); use a PNG, JPEG or WebP") from error


def picture_digest(path: str, *, where: str) -> str:
    """Return the digest of a picture's bytes. Raises as `opened_picture` does."""
    with opened_picture(path, where=where) as picture:
        picture.verify()
        return hashlib.blake2b(at_home(path).read_bytes(), digest_size=16).hexdigest()
