"""Pictures of videos in a store, small enough to be part of a page, as many as are worth their reading."""

import base64
import io
import tempfile
from pathlib import Path

from PIL import Image

from sana.artifact import FileInfo
from sana.errors import SanaError
from sana.store import Store

_MAX_VIDEOS, _MAX_FETCHED = 36, 256 << 20  # videos and their bytes that are read for one page
_SIDE = 240  # longer side of a picture, pixels


class Posters:
    """Makes pictures of videos for one page."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._left, self._bytes_left = _MAX_VIDEOS, _MAX_FETCHED

    def of(self, file: FileInfo, number: int = 1) -> list[str]:
        """Return evenly spaced frames, the first one first, as JPEG in base64; none where enough were made.

        Raises:
            FileNotFoundError: the video is gone.
            SanaError: it cannot be read.
        """
        self._left, self._bytes_left = self._left - 1, self._bytes_left - file.num_bytes
        if self._left < 0 or self._bytes_left < 0:
            return []
        path = self._store.local_path(file.key)
        if path is not None:
            return _pictures(path, number)
        with tempfile.TemporaryDirectory(prefix="poster-") as folder:
            self._store.fetch(file.key, Path(folder) / "video.mp4")
            return _pictures(Path(folder) / "video.mp4", number)


def _pictures(path: Path, number: int) -> list[str]:
    # here and not above: most pages need no video library
    from sana.data.video.first_frame import pictures_of_video
    from sana.data.video.video import ClipRejected

    try:
        return [_jpeg(Image.fromarray(frame)) for frame in pictures_of_video(path, number)]
    except ClipRejected as rejection:
        raise SanaError(f"{rejection.reason}, {rejection.detail}") from rejection


def _jpeg(picture: Image.Image) -> str:
    picture.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=70, optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()
