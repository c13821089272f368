"""The data report: one HTML page on what became of every file, made from committed artifacts alone.

It loads nothing from anywhere, and its content policy forbids it to: it opens from a disk, in an artifact viewer, on
paper. Equal artifacts and sources give equal bytes, but for the stated time.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence

from sana.artifact import Artifact
from sana.bucket import Bucket
from sana.context import Context
from sana.report import clip_sections, data_sections
from sana.report.buckets import buckets
from sana.report.captions import captions, tokens
from sana.report.flow import datasets, refusals, steps
from sana.report.html import name, text
from sana.report.states import StageState
from sana.report.storage import storage
from sana.report.style import CSS, SCRIPT
from sana.report.thumbnails import MAX_BUCKETS, thumbnails
from sana.report.videos import videos


def data_report(context: Context, title: str, states: Sequence[StageState], *, now: float) -> str:
    """Make the page of a run, whichever of its stages are committed.

    Args:
        title: the name of the run's config.
        states: all stages in their order.
        now: seconds since 1970, stated on the page.

    Raises:
        SanaError: a table of an artifact is gone or damaged. A source that cannot be read is said on the page.
    """
    artifacts = {state.name: state.artifact for state in states if state.artifact is not None}
    body = _sections(context, artifacts)
    body.insert(2, clip_sections.stages(states))
    return _page(context, title, "\n".join(body), now)


def _sections(context: Context, artifacts: Mapping[str, Artifact]) -> list[str]:
    store = context.store
    stepped, refused, kept = steps(artifacts), refusals(store, artifacts), storage(store, artifacts)
    probed = videos(store, artifacts["probe"]) if "probe" in artifacts else None
    windows = buckets(store, artifacts["bucket"]) if "bucket" in artifacts else None
    shapes: list[Bucket] = [count.bucket for count in windows.counts] if windows else []
    parts = [clip_sections.summary(stepped, probed, windows, kept, artifacts), clip_sections.flow(stepped)]
    if stepped:
        parts.append(clip_sections.refusals(refused, datasets(artifacts, refused)))
    if windows:
        parts.append(data_sections.buckets(windows, probed))
        encoded = artifacts.get("encode_latents")
        names = [str(shape) for shape in shapes[:MAX_BUCKETS]]
        pictures = thumbnails(
            store, context.config, context.work_dir, windows=artifacts["bucket"], encoded=encoded, shapes=names
        )
        parts.append(data_sections.thumbnails(pictures, windows.counts, encoded=encoded is not None))
    if probed:
        parts.append(data_sections.videos(probed, shapes))
    if "download" in artifacts:
        encoded = artifacts.get("encode_captions")
        lengths = tokens(store, encoded) if encoded else None
        parts.append(data_sections.captions(captions(store, artifacts["download"]), lengths))
    if kept.kept:
        parts.append(data_sections.storage(kept))
    if "evaluate" in artifacts:
        report = artifacts["evaluate"]
        parts.append(data_sections.eval_loss(report, store.uri(report.files["eval_loss.png"].key)))
    return parts


def _page(context: Context, title: str, body: str, now: float) -> str:
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    sources = ", ".join(part.id for part in context.config.download.enabled[:8])
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name(title)}: data report</title>
<style>{CSS}</style></head>
<body><main>
<header><small>Data report</small><h1>{name(title)}</h1>
<p class="meta">data sets {name(sources)} &middot; artifacts under <code>{name(context.store.root)}</code>
&middot; page made {text(clip_sections.utc(now))}</p></header>
{body}
<footer>Made from the committed artifacts alone; make it again with <code>sana report CONFIG</code>.</footer>
</main><script>{SCRIPT}</script></body></html>
"""
