"""Check: what a run would make of the data, all at once, without a run: nothing is written under root.

The stages up to the buckets run on a store that is thrown away. What stops a run is collected instead of raised. Videos
that the root's pool or an earlier check has probed are not opened again.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.compute as pc

from sana.artifact import Artifact
from sana.config.bucket import BucketConfig
from sana.config.data import DatasetConfig
from sana.config.pipeline import Config
from sana.context import Context
from sana.counts import Counts
from sana.data.bucketing.split_check import check_splits, split_notes
from sana.data.bucketing.window_table import WindowTable, make_window_table
from sana.data.rejections import fraction_of, is_too_many
from sana.data.schemas import REJECTS
from sana.data.sources.sample import SampleLimits, archives_to_read, sampled
from sana.data.sources.source import Source, open_sources, sources_of
from sana.data.sources.source_check import check_sources
from sana.data.tables import probed_files, read_table
from sana.errors import SanaError
from sana.pipeline import graph
from sana.pipeline.plan import check_work_dir
from sana.progress import Report
from sana.runtime.pool import Pool
from sana.stages import bucket, probe
from sana.stages.bodies.probe_cache import ProbeCache
from sana.store import Store, open_store

ReportFor = Callable[[str], Report]  # name of a stage -> what hears its progress


@dataclass(frozen=True)
class Listed:
    """What the stages before the buckets found, of all data sets that could be read.

    `captions` CAPTIONS and `clips` CLIPS are of the clips with captions, `probed` PROBED of all whose video is good,
    `to_bucket` PROBED of those that reach the buckets, `rejects` REJECTS of these stages.
    """

    counts: Mapping[str, Counts]  # by stage
    layouts: Mapping[str, str]  # caption layout, by data set
    clips: pa.Table
    captions: pa.Table
    probed: pa.Table
    to_bucket: pa.Table
    rejects: pa.Table


@dataclass(frozen=True)
class Checked:
    """What a run would make of `listed`, which is None where no data set can be read.

    `config` has the data sets that could be read; `stopped` says what would stop a run, a line each. `num_videos` has
    the videos of each data set of which a sample was looked at.
    """

    config: Config
    unread: Sequence[SanaError]  # what is wrong with data sets that cannot be read
    source_notes: Sequence[str]
    listed: Listed | None = None
    assigned: WindowTable | None = None
    num_videos: Mapping[str, int] = field(default_factory=dict)

    @property
    def rejects(self) -> pa.Table:
        """REJECTS of all stages."""
        tables = [self.listed.rejects] if self.listed else []
        return pa.concat_tables([REJECTS.empty_table(), *tables, *([self.assigned.rejects] if self.assigned else [])])

    def factor(self, dataset: str) -> float:
        """How many clips of a data set each of those that were looked at stands for."""
        found = 0 if self.listed is None else self.listed.counts["download"].datasets[dataset].num_in
        return max(1.0, self.num_videos.get(dataset, 0) / found) if found else 1.0

    @property
    def notes(self) -> list[str]:
        """What is said of the sources and of the split."""
        if self.listed is None or self.assigned is None:
            return [*self.source_notes]
        return [*self.source_notes, *split_notes(self.config, self.listed.to_bucket, self.assigned)]

    @property
    def stopped(self) -> list[str]:
        found = [str(error) for error in self.unread]
        if self.listed is not None and self.assigned is not None:
            found += _limits(self.config, {**self.listed.counts, bucket.NAME: self.assigned.counts})
            try:
                check_splits(self.config, self.listed.to_bucket, self.assigned)
            except SanaError as error:
                found.append(str(error))
        return found

    def with_config(self, config: Config) -> "Checked":
        """The same clips under another config, which may differ in the buckets and below."""
        if self.listed is None:
            return replace(self, config=config)
        if self.assigned is not None and _split_and_rules(config) == _split_and_rules(self.config):
            return replace(self, config=config)
        return replace(self, config=config, assigned=make_window_table(self.listed.to_bucket, config))


def _split_and_rules(config: Config) -> object:
    """Return what the buckets depend on."""
    return config.bucket, [(dataset.id, dataset.role, dataset.bucket) for dataset in config.download.enabled]


def check_data(
    context: Context, report_for: ReportFor, *, known: Store | None = None, limits: SampleLimits | None = None
) -> Checked:
    """List, pair, probe and bucket all clips of a config. `known` is the root: what its pool has is not probed again.

    With `limits` all is listed, and of each data set a sample is looked at.

    Raises:
        SanaError: work_dir cannot be written, or a worker failed otherwise than by a video.
    """
    check_work_dir(context.work_dir)
    read_as, opened, unread, notes = _open_sources(context, limits)
    num_videos = {name: source.videos.num_rows for name, source in opened.items() if limits is not None}
    while opened:
        datasets = [dataset for dataset in context.config.download.enabled if dataset.id in opened]
        with TemporaryDirectory(dir=context.work_dir, prefix="worker-check-") as folder:
            try:
                inner = _thrown_away(context, [read_as[dataset.id] for dataset in datasets], opened, Path(folder))
                listed = _list(inner, report_for, known)
            except _UnreadableError as error:  # a table that is read to its end only now
                unread += error.problems
                opened = {name: source for name, source in opened.items() if name not in error.datasets}
                continue
        download = context.config.download.model_copy(update={"datasets": tuple(datasets)})
        config = context.config.model_copy(update={"download": download})
        return Checked(config, unread, notes, listed, num_videos=num_videos).with_config(config)
    return Checked(context.config, unread, notes)


class _UnreadableError(Exception):
    """The captions of these data sets cannot be read."""

    def __init__(self, datasets: Sequence[str], problems: Sequence[SanaError]) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.datasets, self.problems = datasets, problems


def _open_sources(
    context: Context, limits: SampleLimits | None
) -> tuple[dict[str, DatasetConfig], dict[str, Source], list[SanaError], list[str]]:
    """Open and list each data set.

    Returns (the data sets, of whose archives `limits` may leave some out; the sources of those that can be read; what
    is wrong with the others; notes).
    """
    opened: dict[str, Source] = {}
    read_as: dict[str, DatasetConfig] = {}
    problems: list[SanaError] = []
    notes: list[str] = []
    download = context.config.download
    for dataset in download.enabled:
        alone = context.config.model_copy(update={"download": download.model_copy(update={"datasets": (dataset,)})})
        try:
            source = open_sources(alone, work_dir=context.work_dir)
            if limits is not None and (some := archives_to_read(source[dataset.id], limits)) is not None:
                alone = _with_archives(alone, some)
                source = open_sources(alone, work_dir=context.work_dir)
                notes.append(f"{dataset.where}: of its archives {len(some)} were looked into, such as {some[0]}")
            wrong, said = check_sources(alone, work_dir=context.work_dir, opened=source, tell_unread=False)
            if limits is not None and not wrong:
                source = {dataset.id: sampled(source[dataset.id], limits)}
        except SanaError as error:
            source, wrong, said = {}, [error], []
        problems += wrong
        notes += said
        opened.update({} if wrong else source)
        read_as[dataset.id] = alone.download.datasets[0]
    return read_as, opened, problems, notes


def _with_archives(config: Config, paths: Sequence[str]) -> Config:
    """Return the config of one data set with these archives of it alone."""
    [dataset] = config.download.datasets
    globs = tuple(re.sub(r"([*?[])", r"[\1]", path) for path in paths)
    dataset = dataset.model_copy(update={"archives": "read", "archive_files": globs})
    return config.model_copy(update={"download": config.download.model_copy(update={"datasets": (dataset,)})})


def _thrown_away(
    context: Context, datasets: Sequence[DatasetConfig], opened: Mapping[str, Source], root: Path
) -> Context:
    """Return a context for the stages before the buckets, on an empty root, with the sources that are open already."""
    reset = {"role": "split", "bucket": None, "images": "ignore"}  # what is read was listed already
    plain = [dataset.model_copy(update=reset) for dataset in datasets]
    download = context.config.download.model_copy(update={"datasets": tuple(plain)})
    # no role and no bucket: what remains without the others must be valid to the worker, which checks it again
    train = context.config.train.model_copy(update={"masked_loss": None})
    update = {"root": str(root), "download": download, "bucket": BucketConfig(), "train": train}
    inner = Context(context.config.model_copy(update=update), open_store(str(root)), context.work_dir, opened={})
    assert inner.opened is not None
    inner.opened[sources_of] = dict(opened)
    return inner


def _list(inner: Context, report_for: ReportFor, known: Store | None) -> Listed:
    artifacts: dict[str, Artifact] = {}
    for name in graph.until(inner.config, bucket.NAME)[:-1]:
        module, inputs = graph.stage(name), graph.inputs_of(inner.config, name, artifacts)
        stage_context = replace(inner, report=report_for(name))
        if name == probe.NAME:
            guard = _probes_kept(inner, known, read_table(inner.store, inputs["clips"], "clips.parquet"))
        else:
            guard = _readable(inner, name)
        with guard:
            artifacts[name] = module.run(stage_context, inputs, module.recipe(stage_context, inputs))
    # the clips that each stage kept
    clips = {name: read_table(inner.store, made, "clips.parquet") for name, made in artifacts.items()}
    return Listed(
        counts={name: made.counts for name, made in artifacts.items()},
        layouts={name: source.layout for name, source in inner.once(sources_of).items()},
        clips=clips["download"],
        captions=read_table(inner.store, artifacts["download"], "captions.parquet"),
        probed=clips[probe.NAME],
        to_bucket=list(clips.values())[-1],
        rejects=pa.concat_tables(read_table(inner.store, made, "rejects.parquet") for made in artifacts.values()),
    )


@contextmanager
def _readable(inner: Context, stage: str) -> Iterator[None]:
    """Find the data sets that a stage without a worker cannot read, by opening the captions of each alone."""
    try:
        yield
    except SanaError as error:
        from sana.data.captions.captions import open_captions

        wrong: dict[str, SanaError] = {}
        for dataset in inner.config.download.datasets if stage == "download" else ():
            try:
                open_captions(dataset, inner.once(sources_of)[dataset.id])
            except SanaError as one:
                wrong[dataset.id] = one
        if not wrong:
            raise
        raise _UnreadableError(list(wrong), list(wrong.values())) from error


@contextmanager
def _probes_kept(inner: Context, known: Store | None, clips: pa.Table) -> Iterator[None]:
    """Give the pool what is known of these clips, and keep what it learns for the next check and the run."""
    pool, cache = probe.pool_of(inner), ProbeCache(inner.work_dir, probe.pool_of(inner).key)
    if known is not None:
        with suppress(SanaError):  # a damaged part: the videos are opened again
            rows = Pool(known, probe.NAME, pool.key, schema=pool.schema, id_column=pool.id_column).rows()
            rows = rows.filter(pc.is_in(rows["digest"], value_set=probed_files(clips)["digest"].combine_chunks()))
            if rows.num_rows:
                pool.commit_part(rows)
    try:
        yield
    finally:
        cache.keep(pool)


def _limits(config: Config, counts: Mapping[str, Counts]) -> list[str]:
    """Return what `max_rejected_fraction` would stop: a line for each data set, whatever the number of stages."""
    found = [
        f"{stage}: all {of.num_in} clips are rejected; above is what would help"
        for stage, of in counts.items()
        if of.num_in and not of.num_out
    ]
    partly = {stage: of.datasets for stage, of in counts.items() if of.num_out}
    for dataset in config.download.datasets:
        mine = {stage: of[dataset.id] for stage, of in partly.items() if dataset.id in of}
        above = {stage: of for stage, of in mine.items() if is_too_many(of, dataset.max_rejected_fraction)}
        if above:
            numbers = ", ".join(f"{of.num_rejected} of {of.num_in} in {stage}" for stage, of in above.items())
            needed = max(fraction_of(of) for of in above.values())
            found.append(
                f"{dataset.where}: more clips are rejected than max_rejected_fraction "
                f"{dataset.max_rejected_fraction:g} allows ({numbers}): mend them, or "
                f"-s download.datasets.{dataset.id}.max_rejected_fraction={needed:g}"
            )
    return found
