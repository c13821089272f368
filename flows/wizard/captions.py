"""What `sana init` does where captions are not found: asks for the column of a table, or one caption for all clips."""

from collections.abc import Callable

import pyarrow.compute as pc

from flows.cli.begin.check_text import lines_of_source
from flows.wizard.asking import Asker
from flows.wizard.flags import Flags
from sana.data.captions.metadata_readers import VIDEO_COLUMNS
from sana.data.schemas import Reason
from sana.errors import NoColumnError, SanaError
from sana.pipeline.check import Checked
from sana.pipeline.starting.starter import Starter

_CAPTIONS = "download.datasets.0.captions"
_COLUMNS = 2  # that may have other names: of videos and of captions


def with_captions(starter: Starter, flags: Flags, asker: Asker, look: Callable[[], Checked]) -> Checked:
    """Look at the source, and again until captions are found; the starter has the settings for it.

    Raises:
        SanaError: there is none, and no answer that gives one.
    """
    if flags.caption_columns:
        starter.choose({f"{_CAPTIONS}.text_columns": flags.caption_columns}, why="columns with captions")
    if flags.caption is not None:
        _one_for_all(flags.caption, starter)
    checked = look()
    for _ in range(_COLUMNS):
        missing = _missing_column(checked)
        if missing is None:
            break
        _choose_column(missing, starter, asker)
        checked = look()
    if _none_has_a_caption(checked):
        _one_for_all(_ask_for_one(checked, asker), starter)
        checked = look()
    return checked


def _missing_column(checked: Checked) -> NoColumnError | None:
    for error in checked.unread:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, NoColumnError):
                return cause
            cause = cause.__cause__
    return None


def _choose_column(missing: NoColumnError, starter: Starter, asker: Asker) -> None:
    """Ask which column it is; the only one that it can be is taken."""
    of_videos = missing.setting == "video_column"
    taken = {starter.config.download.datasets[0].captions.video_column, *(() if of_videos else VIDEO_COLUMNS)}
    able = [name for name in missing.columns if name and name.strip().lower() not in taken]
    if not able:
        raise SanaError(f"{missing}\nnothing is written")
    flag = f"-s {_CAPTIONS.replace('.0.', '.ID.')}.video_column=NAME" if of_videos else "--caption-column"
    if len(able) > 1 and not asker.can_ask:
        raise SanaError(f"{missing}\nnothing is written; name one of {', '.join(able)} by {flag}")
    what = "videos" if of_videos else "captions"
    column = able[0] if len(able) == 1 else asker.choose(
        f"Which column of the table has the {what}?", [(name, name) for name in able], able[0], flag=flag
    )  # fmt: skip
    value = column if of_videos else (column,)
    starter.choose({f"{_CAPTIONS}.{missing.setting}": value}, why=f"the column with the {what}")


def _none_has_a_caption(checked: Checked) -> bool:
    if checked.listed is None or checked.listed.clips.num_rows:
        return False
    return bool(pc.any(pc.equal(checked.rejects["reason"], Reason.NO_CAPTION.value)).as_py())


def _ask_for_one(checked: Checked, asker: Asker) -> str:
    for line in lines_of_source(checked):
        asker.say(line)
    if not asker.can_ask:
        raise SanaError(
            "no clip has a caption, so nothing is written: write <name>.txt beside each video, do what is said above "
            "of other files, or give one caption for all by --caption"
        )
    question = "No clip has a caption. One for all of them (Ctrl-C: leave, and write them first)"
    return asker.text(question, "", lambda answer: "" if answer else "a caption is needed", flag="--caption")


def _one_for_all(caption: str, starter: Starter) -> None:
    """Set one caption for the clips that have none."""
    if not caption.strip():
        raise SanaError("--caption is empty; write what the videos show")
    why = "the caption of clips that have none"
    starter.choose({f"{_CAPTIONS}.missing": "fallback", f"{_CAPTIONS}.fallback": caption}, why=why)
