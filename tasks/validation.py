"""Videos of validation from a checkpoint, shown in MLflow, and in Prefect where a flow run makes them."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from sana.context import Context
from sana.pipeline.validation import Validated
from sana.store import Store
from sana.training.validation.record import ValidationRecord, folder_of
from tasks.prefect_pages.markdown import link, table, text
from tasks.prefect_pages.run_page import picture_of
from tasks.prefect_pages.stages import MAX_NAMED
from tasks.prefect_pages.work_page import Work, page_of_work
from tasks.prefect_progress import PrefectProgress
from tasks.tracking.pictures import show_validation_of
from tasks.web_pages import mlflow_page

MAX_SHEETS = 4  # each is a picture of up to 300 kB


@contextmanager
def page_of_validation(config: str) -> Iterator[Work]:
    """Keep the page and the ring of a flow run that makes the videos."""
    with page_of_work(config, "validation", partial(PrefectProgress().on_stage_progress, "validation")) as work:
        yield work


def tell(context: Context, done: Validated, work: Work) -> None:
    """Show the videos in MLflow, and on the page of the work."""
    record = done.record
    work.numbers = [
        ("checkpoint of step", record.step),
        ("videos", len(record.videos)),
        ("made in", f"{record.seconds:.1f} s"),
        *([] if work.seen.progress else [("made here", "0: they were there already")]),
    ]
    shown = show_validation_of(context, done)
    page = mlflow_page(shown.tracker, shown.run_id) if shown.run_id else None
    links = link("MLflow", page) if page else f"In MLflow and as a page: {text(f'sana ui {shlex.quote(work.config)}')}"
    work.more = lambda: [*_videos(context.store, record), links]


def _videos(store: Store, record: ValidationRecord) -> list[str]:
    """Render the sheets of the videos, what each shows, and where they are."""
    sheets = [
        picture_of(store, record.files[name].key, f"videos of {of}")
        for of, name in [*record.sheets.items()][:MAX_SHEETS]
    ]
    rows = [
        [text(one.prompt), text(one.bucket), str(one.seed), text(one.weights), text(one.file)]
        for one in record.videos[:MAX_NAMED]
    ]
    where = text(store.uri(folder_of(record.trajectory, record.step, record.settings)))
    more = f"{len(record.videos) - len(rows)} more are in" if len(record.videos) > len(rows) else "All are in"
    return [
        *sheets,
        table(["prompt", "bucket", "seed", "weights", "file"], rows, numbers=["seed"]),
        f"{more} {where}",
    ]
