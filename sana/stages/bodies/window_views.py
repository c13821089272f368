"""The content views of a table of windows, which stages below read."""

import pyarrow as pa

from sana.data.schemas import SAMPLE_KEY_COLUMNS
from sana.data.tables import content_digest

# What encode_latents reads of a window: source_id and the like may change without a video being opened.
WINDOW_COLUMNS = ("sample_id", "clip_id", "dataset", "split", "draws_per_epoch", *SAMPLE_KEY_COLUMNS)


def content_of_windows(windows: pa.Table) -> dict[str, str]:
    """Return the content views of a table WINDOWS: `windows`, and `members`, the clips with their split."""
    members = windows.select(["clip_id", "split"]).group_by(["clip_id", "split"]).aggregate([])
    return {
        "windows": content_digest(windows, WINDOW_COLUMNS),
        "members": content_digest(members, ("clip_id", "split")),
    }
