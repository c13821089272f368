"""Treatments: what is done to the fields and colours of each clip by what probe knows of it, or why it is rejected.

Columns are numpy arrays over many clips. A million clips have a few dozen distinct codings; each is decided once.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sana.config.bucket import BucketRules
from sana.data.bucketing.windows import Ints
from sana.data.schemas import TREATMENTS, Reason
from sana.facts import BucketFacts

HD_LINES = 720  # coded: from here on players take an untagged video for BT.709
_HDR = {"smpte2084": "pq", "arib-std-b67": "hlg"}
_INTERLACED = ("tt", "bb", "tb", "bt")
_FIELD_PICTURES = ("hevc",)  # codecs that keep each field of interlaced video as a picture of its own
_ALWAYS_INTERLACED = ("dvvideo",)  # whose container says nothing
_NO_MATRIX = ("ycgco", "bt2020c", "ictcp")  # that libav's scaler does not know
_HDR_PRIMARIES = ("unknown", "bt709", "bt470bg", "smpte170m", "smpte240m", "bt2020", "smpte432", "ebu3213")
_USUAL_PRIMARIES = ("unknown", "bt709", "bt470bg", "smpte170m", "smpte240m", "ebu3213")
_USUAL_TRANSFERS = (
    "unknown", "bt709", "gamma22", "gamma28", "smpte170m", "smpte240m", "iec61966-2-4", "iec61966-2-1", "bt2020-10",
    "bt2020-12",
)  # fmt: skip
_YUV = re.compile(r"yuv|yuyv|uyvy|yvyu|vuy|nv\d|p[0-4]1\d|y21\d|xv[34]|ayuv")  # pixel formats that have a matrix
_FACTS = ("codec", "pixel_format", "color_space", "color_primaries", "color_transfer", "field_order")


@dataclass(frozen=True)
class Coding:
    """How the fields and colours of a clip are coded: columns of a probe row, and whether it has HD_LINES."""

    is_hd: bool
    variable_fps: bool
    codec: str
    pixel_format: str
    color_space: str
    color_primaries: str
    color_transfer: str
    field_order: str

    @property
    def is_interlaced(self) -> bool:
        return self.field_order in _INTERLACED or self.codec in _ALWAYS_INTERLACED


@dataclass(frozen=True)
class TreatedClips:
    """The coding and treatment of each clip: int64 columns [clips]."""

    codings: tuple[Coding, ...]
    coding_codes: Ints  # index into codings
    treatment_codes: Ints  # index into TREATMENTS
    is_rejected: NDArray[np.bool_]
    untreated: tuple[str, ...]  # what `untreated_of` says of some coding
    untreated_codes: Ints  # index into untreated

    def counts(self, kept: NDArray[np.bool_]) -> dict[str, int]:
        """Return how many of the kept clips have each treatment."""
        return _counts(TREATMENTS, self.treatment_codes[kept])

    def untreated_counts(self, kept: NDArray[np.bool_]) -> dict[str, int]:
        """Return how many of the kept clips are used as they are, by what is unusual about them."""
        return dict(sorted(_counts(self.untreated, self.untreated_codes[kept]).items()))


def _counts(names: Sequence[str], codes: Ints) -> dict[str, int]:
    numbers = np.bincount(codes, minlength=len(names)).tolist()
    return {name: num for name, num in zip(names, numbers, strict=True) if num and name}


def treat_clips(clips: pa.Table, rules: Sequence[BucketRules], rules_codes: Ints) -> TreatedClips:
    """Choose the treatment of each clip. `clips` has the columns PROBED, `rules_codes` are indices into `rules`."""
    codings, coding_codes = _codings(clips)
    treatments, untreated = (np.zeros((len(rules), len(codings)), np.int64) for _ in range(2))
    is_rejected = np.zeros(treatments.shape, np.bool_)
    phrases = [""]
    for place in np.ndindex(*treatments.shape):
        coding, of_clip = codings[place[1]], rules[place[0]]
        is_rejected[place] = rejection_of(coding, of_clip) is not None
        if not is_rejected[place]:
            treatments[place] = TREATMENTS.index(treatment_of(coding, of_clip))
            if (phrase := untreated_of(coding, of_clip)) not in phrases:
                phrases.append(phrase)
            untreated[place] = phrases.index(phrase)
    at = rules_codes, coding_codes
    return TreatedClips(codings, coding_codes, treatments[at], is_rejected[at], tuple(phrases), untreated[at])


def rejection_of(coding: Coding, rules: BucketRules) -> tuple[Reason, str] | None:
    """Return (reason, detail) of a clip whose fields or colours cannot, or by its rules must not, be used."""
    transfer, is_hdr = coding.color_transfer, coding.color_transfer in _HDR
    if is_hdr and rules.hdr == "reject":
        return Reason.HDR, f"its transfer curve is {transfer} ({_HDR[transfer]}); bucket.hdr is reject"
    if coding.color_space in _NO_MATRIX:
        return Reason.COLOR, f"its colours have the matrix {coding.color_space}, which is not converted here"
    if is_hdr and rules.hdr == "tonemap" and coding.color_primaries not in _HDR_PRIMARIES:
        return (
            Reason.COLOR,
            f"{transfer} with the primaries {coding.color_primaries} is not converted here; bucket.hdr: as_is uses "
            "such clips as if they were SDR",
        )
    if coding.is_interlaced and rules.interlaced == "reject":
        order = coding.field_order if coding.field_order in _INTERLACED else f"that of {coding.codec}"
        return Reason.INTERLACED, f"its field order is {order}; bucket.interlaced is reject"
    if coding.is_interlaced and rules.interlaced == "deinterlace" and coding.codec in _FIELD_PICTURES:
        return (
            Reason.INTERLACED,
            f"{coding.codec} keeps its fields (order {coding.field_order}) as pictures of their own, which are not "
            "joined here; bucket.interlaced: as_is uses each as a frame",
        )
    return None


def treatment_of(coding: Coding, rules: BucketRules) -> str:
    """Return one of TREATMENTS for a clip that is not rejected."""
    fields = "bwdif" if coding.is_interlaced and rules.interlaced == "deinterlace" else ""
    colors = _HDR.get(coding.color_transfer, "") if rules.hdr == "tonemap" else ""
    if not colors and coding.is_hd and coding.color_space == "unknown" and _YUV.match(coding.pixel_format):
        colors = "bt2020" if coding.color_primaries == "bt2020" else "bt709"
    return "+".join(filter(None, (fields, colors)))


def untreated_of(coding: Coding, rules: BucketRules) -> str:
    """Return what is unusual about the times, fields and colours of a clip and yet used as it is; empty: nothing."""
    phrases = []
    if coding.variable_fps and rules.target_fps is None:
        phrases.append("a varying frame rate without target_fps")
    if coding.is_interlaced and rules.interlaced == "as_is":
        phrases.append("interlaced")
    if coding.color_transfer in _HDR:
        return ", ".join([*phrases, f"transfer {coding.color_transfer}"] if rules.hdr == "as_is" else phrases)
    if coding.color_transfer not in _USUAL_TRANSFERS:
        phrases.append(f"transfer {coding.color_transfer}")
    if coding.color_primaries not in _USUAL_PRIMARIES:
        phrases.append(f"primaries {coding.color_primaries}")
    return ", ".join(phrases)


def treatment_lines(facts: BucketFacts) -> list[str]:
    """Say what is done to the clips that are used, and what is not though unusual: no line where there is nothing."""

    def num_of(part: str) -> int:
        return sum(num for name, num in facts.treatments.items() if part in name.split("+"))

    mapped = ", ".join(f"{num} {name}" for name in ("hlg", "pq") if (num := num_of(name)))
    lines = [
        (num_of("hlg") + num_of("pq"), f"tone-mapped to SDR ({mapped})"),
        (num_of("bt709"), f"taken for BT.709 (untagged, from {HD_LINES} lines on)"),
        (num_of("bt2020"), "taken for BT.2020 (only its primaries are tagged)"),
        (num_of("bwdif"), "deinterlaced"),
    ]
    lines += [(num, f"used as {'it is' if num == 1 else 'they are'}: {what}") for what, num in facts.untreated.items()]
    return [f"{num} {'clip is' if num == 1 else 'clips are'} {what}" for num, what in lines if num]


def _codings(clips: pa.Table) -> tuple[tuple[Coding, ...], Ints]:
    """Return the distinct codings and each clip's index in them."""
    sideways = np.isin(clips["rotation_deg"].to_numpy(), (90, 270))
    lines = np.where(sideways, clips["width"].to_numpy(), clips["height"].to_numpy())  # neither has a sample aspect
    codes = (lines >= HD_LINES).astype(np.int64) * 2 + clips["variable_fps"].to_numpy()
    names: list[list[str]] = []
    for fact in _FACTS:
        coded = clips[fact].combine_chunks().dictionary_encode()
        names.append(coded.dictionary.to_pylist())
        codes = codes * max(1, len(names[-1])) + coded.indices.to_numpy()
    distinct, of_clips = np.unique(codes, return_inverse=True)
    codings = []
    for code in distinct.tolist():
        values: list[str] = []
        for of_fact in reversed(names):
            code, index = divmod(code, len(of_fact))
            values.insert(0, of_fact[index])
        codings.append(Coding(bool(code // 2), bool(code % 2), *values))
    return tuple(codings), of_clips.astype(np.int64)
