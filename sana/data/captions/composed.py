"""The captions of one video: what is text among what was found, with prefix, suffix and trigger added."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sana.config.captions import CaptionsConfig
from sana.data.captions.caption_text import is_blank, why_blank, why_no_text


@dataclass(frozen=True)
class VideoCaptions:
    """The captions of one video, as they are trained on, and the source it was cut from ("": not stated).

    Without captions, `reason` says why, in words. `num_dropped`: alternatives that are no text, where others are.
    """

    captions: tuple[str, ...]
    source_id: str = ""
    reason: str = ""
    num_dropped: int = 0


def compose(caption: str, config: CaptionsConfig, motion_score: float | None) -> str:
    """Return the text that is trained on: `trigger, prefix caption suffix motion score: N.`, without the template."""
    text = f"{config.prefix}{caption}{config.suffix}"
    if config.trigger and not re.search(rf"(?<!\w){re.escape(config.trigger)}(?!\w)", text, re.IGNORECASE):
        text = f"{config.trigger}, {text}"
    if motion_score is not None and motion_score == motion_score:  # NaN: pandas' way to say that there is none
        text = f"{text} motion score: {int(motion_score)}."  # int, as in the official data set
    return text


@dataclass(frozen=True)
class Found:
    """What was found for one video, as written: alternatives with their motion scores.

    `name` is their file, or what else to call them in reasons; `null_words` are in lower case. `absent` and `troubles`
    say what is there besides: what stands for no caption, and what is wrong.
    """

    texts: Sequence[tuple[str, float | None]]
    name: str
    why_none: str = ""  # where nothing else says why there is no caption
    null_words: frozenset[str] = frozenset()
    absent: Sequence[str] = ()
    troubles: Sequence[str] = ()

    def composed(self, config: CaptionsConfig, *, source_id: str = "", score: float | None = None) -> VideoCaptions:
        """Compose the captions that are text, else the fallback, else say why there is none.

        An alternative that is blank, or a null word, is none. One that is no text is dropped and counted, where there
        are others; alone it rejects the video, whatever `config.missing` says: it is damage, not a missing caption.
        """
        captions, absent, troubles = [], list(self.absent), list(self.troubles)
        for text, motion in self.texts:
            if why := why_no_text(text):
                troubles.append(f"{self.name} {why}")
            elif is_blank(text):
                if why := why_blank(text):
                    absent.append(f"{self.name} is empty{why}")
            elif text.strip().lower() in self.null_words:
                absent.append(f"{self.name} is {text.strip()!r}, one of captions.null_words")
            else:
                captions.append(compose(text.strip(), config, motion))
        if captions:
            return VideoCaptions(tuple(captions), source_id, num_dropped=len(troubles))
        if not troubles and config.fallback:  # the config allows one only where it is used
            return VideoCaptions((compose(config.fallback, config, score),), source_id)
        return VideoCaptions((), source_id, [*troubles, *absent, self.why_none or f"{self.name} is empty"][0])
