"""Masks: a conditioning entry of type mask that a video entry names, whose files lie below the videos' folder."""

from pathlib import PurePosixPath
from typing import Any

from sana.convert.conversion import Conversion, Keys
from sana.convert.mapping import Run


def convert_masks(conversion: Conversion, keys: Keys, run: Run) -> None:
    """Write `masks` of a data set, from the entry that `conditioning_data` names."""
    named = keys.present("conditioning_data")
    if not named:
        return
    given = keys.take("conditioning_data")
    names = given if isinstance(given, list) else [given]
    masks = [entry for entry in run.datasets if entry.get("id") in names and is_mask(entry)]
    if len(masks) != 1:
        what = "no entry of conditioning_type mask has this id" if not masks else "it names several entries of masks"
        conversion.leave_out(named[0], given, f"{what}; set masks of the data set")
        return
    source, folder = run.entry.get("instance_data_dir"), masks[0].get("instance_data_dir")
    inside = _below(str(folder or ""), str(source or ""))
    if not inside:
        why = f"masks are read from the source itself: move {folder} into {source}, and set masks.folder to its name"
        conversion.leave_out(named[0], given, why)
        return
    conversion.set(f"{run.at}masks.folder", inside, "white where the loss looks; a/clip.png is of a/clip.mp4", *named)


def convert_masked_loss(conversion: Conversion, keys: Keys, run: Run) -> None:
    """Write `train.masked_loss` where a data set has masks, after the data sets."""
    named = keys.present("masked_loss_probability")
    if any(".masks." in setting.key for setting in conversion.settings):
        probability = keys.number("masked_loss_probability", 1.0)
        if probability > 0:
            why = "of a sample; there masks had no effect on Sana Video"
            conversion.set("train.masked_loss.probability", min(probability, 1.0), why, *named)
            return
    for key in named:
        conversion.leave_out(key, keys.take(key), "no data set in use has masks, or it is 0")


def is_mask(entry: Any) -> bool:
    """Whether an entry of the data loader file has masks."""
    return entry.get("dataset_type") == "conditioning" and entry.get("conditioning_type") in ("mask", "segmentation")


def _below(folder: str, source: str) -> str:
    """Return a folder's path relative to another one, or "" if it is not below it."""
    inner, outer = PurePosixPath(folder), PurePosixPath(source)
    return str(inner.relative_to(outer)) if source and inner != outer and inner.is_relative_to(outer) else ""
