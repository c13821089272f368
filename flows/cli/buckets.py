"""`sana buckets`: what the bucket stage would make of the clips, before anything is encoded."""

from collections.abc import Sequence

import click

from flows.cli.options import config_options, context_of, resolve, same_options
from sana.config.pipeline import Config
from sana.counts import Counts
from sana.facts import BucketFacts


@click.command()
@config_options
def buckets(config: str, overrides: Sequence[str], root: str | None) -> None:
    """Preview buckets, windows, crops and the split. Opens no video and writes nothing."""
    from flows.cli.tables import render_table
    from sana.bucket import Bucket
    from sana.data.bucketing.split_check import check_splits, split_notes
    from sana.data.bucketing.window_table import make_window_table
    from sana.data.tables import read_table
    from sana.errors import SanaError
    from sana.pipeline.graph import providers
    from sana.pipeline.plan import found
    from sana.stages import bucket as stage

    context = context_of(resolve(config, overrides, root), read_only=True)
    last = providers(context.config, stage.NAME)["probed_clips"]
    probed = found(context, last)
    if probed is None:
        raise SanaError(
            f"{context.store.root} has no probe of these clips yet, from which buckets are chosen; "
            f"make it: sana run {same_options(config, overrides, root)} --until {last}"
        )
    clips = read_table(context.store, probed, "clips.parquet")
    assigned = make_window_table(clips, context.config)
    dtype = context.config.encode_latents.dtype
    rows = [
        (name, str(of.train), str(of.eval), str(of.clips), f"{of.crop_loss:.1%}", f"{of.upscaled:.1%}",
         str(Bucket.parse(name).num_tokens),
         f"{of.num_samples * Bucket.parse(name).latent_bytes(dtype) / 2**20:.1f}")
        for name, of in assigned.facts.buckets.items()
    ]  # fmt: skip
    titles = ("bucket", "train", "eval", "clips", "cropped", "upscaled", "tokens", f"latents MiB ({dtype})")
    click.echo(render_table(titles, rows))
    for line in _summary(assigned.counts, assigned.facts):
        click.echo(line)
    for line in [*_warnings(context.config, assigned.facts), *split_notes(context.config, clips, assigned)]:
        click.echo(f"warning: {line}")
    check_splits(context.config, clips, assigned)


def _summary(counts: Counts, facts: BucketFacts) -> list[str]:
    lines = [
        f"clips: {counts.num_in} in, {counts.num_out} used for {counts.num_samples} samples, "
        f"{counts.num_rejected} rejected"
        + (f" ({', '.join(f'{num} {reason}' for reason, num in counts.reasons.items())})" if counts.reasons else "")
    ]
    if len(counts.datasets) > 1:
        lines += [f"  {name}: {of.num_in} in, {of.num_rejected} rejected" for name, of in counts.datasets.items()]
    used = facts.frames_used / facts.frames if facts.frames else 0.0
    lines.append(
        f"frames of used clips: {facts.frames}, in a sample {facts.frames_used} ({used:.1%}), "
        f"dropped {facts.frames_dropped}"
    )
    return lines


def _warnings(config: Config, facts: BucketFacts) -> list[str]:
    """Say what became of small buckets, and which are smaller than a batch."""
    lines = []
    for name, small in facts.small_buckets.items():
        what = f"{name} has {small.train} train samples, fewer than {config.bucket.min_bucket_samples}"
        if small.draws_per_epoch is not None:
            lines.append(f"{what}: they are drawn {small.draws_per_epoch} times in an epoch")
        for target, num in small.moved.items():
            lines.append(f"{what}: {num} of its clips go to {target}")
        if small.stayed:
            lines.append(f"{what}: {small.stayed} of its clips stay, no other bucket takes them")
    batch = config.train.global_batch_size
    for name, of in facts.buckets.items():
        if 0 < of.train < batch:
            lines.append(f"{name} has {of.train} train samples for a batch of {batch}: it is filled up by repeats")
    return lines
