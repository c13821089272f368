"""A contact sheet: one row of evenly spaced frames for each of several videos, under its name."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

SHEET_FRAMES = 6  # shown per video
_WIDTH = 320  # of a shown frame at most


class SheetRow(NamedTuple):
    """A label, and the frames that are shown: uint8 [n, h, w, 3]."""

    label: str
    frames: np.ndarray


def sheet_row(label: str, video: np.ndarray) -> SheetRow:
    """Choose and scale the frames of a video, uint8 [F, H, W, 3]: a few hundred KB that another process may draw."""
    num_frames, height, width = video.shape[:3]
    scale = min(1.0, _WIDTH / width)
    size = round(width * scale), round(height * scale)
    shown = np.unique(np.linspace(0, num_frames - 1, SHEET_FRAMES).round().astype(int))
    return SheetRow(label, np.stack([np.asarray(Image.fromarray(video[frame]).resize(size)) for frame in shown]))


def contact_sheet(rows: Sequence[SheetRow]) -> Image.Image:
    """Draw one row per video, its label above its frames; all frames are of one size."""
    height, width = rows[0].frames.shape[1:3]
    gap, line = 6, 26
    sheet = Image.new("RGB", (SHEET_FRAMES * (width + gap) + gap, len(rows) * (height + line + gap) + gap), "white")
    draw = ImageDraw.Draw(sheet)
    for number, row in enumerate(rows):
        top = gap + number * (height + line + gap)
        draw.text((gap, top + 4), row.label[: sheet.width // 7], fill="black", font_size=14)
        for column, frame in enumerate(row.frames):
            sheet.paste(Image.fromarray(frame), (gap + column * (width + gap), top + line))
    return sheet
