"""Sections of the page on what the data is: buckets and thumbnails, videos, captions, storage, the eval loss."""

from collections.abc import Sequence

from sana.artifact import Artifact
from sana.bucket import Bucket
from sana.facts import EvaluateFacts
from sana.report import charts
from sana.report.buckets import BucketCount, Buckets
from sana.report.captions import Captions, Tokens
from sana.report.histogram import Histogram
from sana.report.html import bar, duration, name, number, panel, percent, section, size, table, text
from sana.report.storage import Storage
from sana.report.thumbnails import Thumbnails
from sana.report.videos import Videos

MAX_BUCKETS, MAX_REASONS = 60, 5
_SPLITS = '<p class="key"><i class="train"></i>train<i class="eval"></i>eval</p>'
_NOTHING = '<p class="about">nothing to show</p>'


def buckets(found: Buckets, videos: Videos | None) -> str:
    """Samples per bucket, and what cropping and windows leave out."""
    if not found.counts:
        return section("buckets", "Buckets", "No clip is left to be put into a bucket.", "")
    most = found.counts[0].total
    rows = []
    for one in found.counts[:MAX_BUCKETS]:
        drawn = bar(
            [("train", one.train, f"{number(one.train)} train"), ("eval", one.eval, f"{number(one.eval)} eval")], most
        )
        tokens = number(one.bucket.num_tokens)
        rows.append((charts.glyph(one.bucket), f"<code>{one.bucket}</code>", drawn, number(one.train), number(one.eval),
                     percent(one.total, found.train + found.eval), percent(one.crop_loss, 1.0), tokens))  # fmt: skip
    head = ("", "bucket", "samples", "train", "eval", "share", "cropped off", "tokens")
    about = "frames x height x width; cropped off: the mean share of a frame's area; tokens: what the transformer sees"
    if len(found.counts) > MAX_BUCKETS:
        rest = found.counts[MAX_BUCKETS:]
        about += f"; {len(rest)} smaller buckets with {number(sum(one.total for one in rest))} samples are not drawn"
    shown = panel(
        "Samples in each bucket",
        about,
        _SPLITS + f'<div class="wide">{table(head, rows, right=range(3, 8), kind="by-bucket")}</div>',
    )
    crop = _hist(
        "Cropped off", "share of the frame's area that a sample loses, %", found.crop_loss_percent, "%", "samples"
    )
    lead = (
        f"{number(found.train)} train and {number(found.eval)} eval samples in {len(found.counts)} buckets. "
        f"On average {percent(found.mean_crop_loss, 1.0)} of a frame's area is cropped off."
    )
    return section("buckets", "Buckets", lead, shown + f'<div class="grid2">{crop}{_footage(found, videos)}</div>')


def _footage(found: Buckets, videos: Videos | None) -> str:
    """Seconds in windows against seconds probed."""
    probed = videos.seconds if videos else 0.0
    most = max(probed, found.seconds)
    rows = [
        _share("frames used", "train", found.frames_used, number(found.frames_used), found.frames, found.frames),
        _share("frames dropped", "open", found.frames - found.frames_used,
               number(found.frames - found.frames_used), found.frames, found.frames),
        _share("time probed", "open", probed, duration(probed), most, probed),
        _share("time in windows", "train", found.seconds, duration(found.seconds), most, probed),
    ]  # fmt: skip
    about = "frames of the kept clips that are in a window or in none; where windows overlap, time counts in each"
    return panel("Footage that is used", about, table(("", "", "", "share"), rows, right=[2, 3], kind="by-stage"))


def _share(label: str, kind: str, value: float, written: str, scale: float, whole: float) -> tuple[str, str, str, str]:
    """A row: a bar on `scale`, the value as written, its share of `whole`."""
    return label, bar([(kind, value, written)], scale), written, percent(value, whole)


def thumbnails(found: Thumbnails, counts: Sequence[BucketCount], *, encoded: bool) -> str:
    """First frames by bucket, and why some are not there."""
    strips = []
    for count in counts:
        shape, unit = count.bucket, "sample" if count.total == 1 else "samples"
        pictures = "".join(
            f'<img class="{text(one.split)}" width="{one.width}" height="{one.height}" alt="{name(one.path)}" '
            f'title="{name(one.path)}: {text(one.sample_id)}, {text(one.split)}" '
            f'src="data:image/jpeg;base64,{one.jpeg}">'
            for one in found.by_bucket.get(str(shape), ())
        )
        if pictures:
            about = f"<b>{shape}</b><small>{number(count.total)} {unit}</small>"
            strips.append(f'<div class="strip"><div>{about}</div>{pictures}</div>')
    notes = "".join(
        f'<p class="about bad">{number(num)} not shown: {name(why, limit=500)}</p>'
        for why, num in list(found.missing.items())[:MAX_REASONS]
    )
    if len(found.missing) > MAX_REASONS:
        notes += f'<p class="about bad">and {len(found.missing) - MAX_REASONS} other reasons</p>'
    of = "samples in the store" if encoded else "chosen windows, which are not encoded yet"
    lead = f"The first frame of a few {of}, cropped as training sees it; held-out samples are framed."
    return section("thumbnails", "Thumbnails", lead, f'<div class="panel">{"".join(strips) or _NOTHING}{notes}</div>')


def videos(found: Videos, shapes: Sequence[Bucket]) -> str:
    """How long, fast and large the clips are, and how they are coded."""
    if not found.num_clips:
        return section("videos", "Videos", "No clip is left after probe.", "")
    lead = (
        f"{number(found.num_clips)} clips: {duration(found.seconds)}, {number(found.num_frames)} frames, "
        f"{size(found.num_bytes)} of files."
    )
    lengths = _hist("Duration", "seconds", found.durations_s, "s", "clips")
    rates = panel("Frame rate", "average frames per second", charts.bars(*zip(*found.rates, strict=True), unit="clips"))  # type: ignore[misc]
    about = f"{number(found.num_sizes)} display sizes, upright and in square pixels; area: number of clips"
    key = '<p class="key"><i class="train"></i>clips<i class="square"></i>bucket</p>'
    sizes = panel("Resolution", about, key + charts.sizes(found.sizes, shapes))
    rows = [
        (text(codec), text(pixels), str(bits or ""), number(num), bar([("train", num, number(num))], found.num_clips))
        for codec, pixels, bits, num in found.codecs
    ]
    head = ("codec", "pixel format", "bits", "clips", "")
    codecs = panel("Codec and pixel format", "of the video stream", table(head, rows, right=[2, 3]))
    return section(
        "videos", "Videos", lead, f'<div class="grid2">{lengths}{rates}</div><div class="grid2">{sizes}{codecs}</div>'
    )


def captions(found: Captions, encoded: Tokens | None) -> str:
    """How long the captions are, and some of them."""
    lead = (
        f"{number(found.num_captions)} captions of {number(found.num_clips)} clips; "
        f"{percent(found.num_with_alternatives, found.num_clips)} of the clips have several to draw from."
    )
    words = _hist("Words", "words in a caption", found.words, "words", "captions")
    kept = ""
    if encoded and encoded.num_captions:
        cut = f"{number(encoded.num_truncated)} captions ({percent(encoded.num_truncated, encoded.num_captions)})"
        about = f"tokens kept of a caption; {cut} were cut at {encoded.max_tokens}"
        kept = _hist("Tokens", about, encoded.kept, "tokens", "captions")
    quotes = "".join(
        f'<blockquote>{"<br>".join(name(caption, limit=500) for caption in texts[:3])}<span class="mono">{name(path)}'
        f"{f' (and {len(texts) - 3} more)' if len(texts) > 3 else ''}</span></blockquote>"
        for path, texts in found.examples
    )
    examples = panel("Examples", "a fair sample, always the same", quotes or _NOTHING)
    return section("captions", "Captions", lead, f'<div class="grid2">{words}{kept}</div>{examples}')


def storage(found: Storage) -> str:
    """Bytes by stage and kind, and against the videos."""
    most = max((part.num_bytes for part in found.kept), default=0)
    rows = [
        (text(part.stage), text(part.kind), bar([("train", part.num_bytes, size(part.num_bytes))], most),
         size(part.num_bytes), number(part.num_files))
        for part in found.kept
    ]  # fmt: skip
    head = ("stage", "kind", "", "bytes", "files")
    shown = panel("By stage and kind", "what the artifacts of this run refer to; pools may hold more, for other runs",
                  table(head, rows, right=[3, 4]))  # fmt: skip
    against = []
    scale = max(found.video_bytes, found.sample_bytes + found.text_bytes)
    for label, num_bytes, kind in (
        ("source videos", found.video_bytes, "open"),
        ("latents", found.sample_bytes, "train"),
        ("caption embeddings", found.text_bytes, "eval"),
    ):
        share = percent(num_bytes, found.video_bytes) if found.video_bytes else ""
        against.append((label, bar([(kind, num_bytes, size(num_bytes))], scale), size(num_bytes), share))
    each = []
    if found.num_samples:
        each.append(f"{size(found.sample_bytes / found.num_samples)} a sample")
    if found.num_texts:
        each.append(f"{size(found.text_bytes / found.num_texts)} a text")
    compared = panel("Against the videos", "; ".join(each) or "nothing is encoded yet",
                     table(("", "", "bytes", "of the videos"), against, right=[2, 3]))  # fmt: skip
    lead = f"The artifacts of this run keep {size(found.total)}."
    return section("storage", "Storage", lead, f'<div class="grid2">{shown}{compared}</div>')


def eval_loss(artifact: Artifact, uri: str) -> str:
    """One line, and where the rest is."""
    facts = EvaluateFacts.of(artifact)
    said = ", ".join(
        f"{text(label)} <b>{loss.mean:.4f}</b>" + (f" \u00b1 {loss.stderr:.4f}" if loss.stderr else "")
        for label, loss in facts.weights.items()
    )
    lead = f"{said}: on {number(artifact.counts.num_in)} held-out samples after {number(facts.step)} steps."
    return section("eval", "Eval loss", lead, f'<p class="about">by noise level: <code>{name(uri)}</code></p>')


def _hist(title: str, about: str, found: Histogram | None, unit: str, counted: str) -> str:
    if found is None:
        return panel(title, text(about), _NOTHING)
    median = (
        f"; median {found.median:.3g}, longest {found.maximum:.4g}" if unit != "%" else f"; median {found.median:.3g}"
    )
    return panel(title, text(about) + median, charts.columns(found, unit=unit, counted=counted))
