"""`sana inspect`: look at one stored sample beside the frames it was made of."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import click

from flows.cli.options import config_options, context_of, program, resolve, same_options
from flows.cli.output.json_output import emit, json_option
from flows.display.wrapping import say
from sana.artifact import Artifact
from sana.context import Context
from sana.errors import SanaError
from sana.runtime.results import SampleInspection
from sana.wording import first_of


@click.command()
@config_options
@click.argument("sample")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Folder to write to.")
@json_option("flows.cli.output.documents:InspectDocument")
def inspect(config: str, overrides: Sequence[str], root: str | None, sample: str, out: Path | None) -> None:
    """Decode a stored latent back to a video, beside its source frames.

    SAMPLE is a sample_id, the beginning of one, or the path of a clip in its data set.
    """
    import pyarrow.compute as pc

    from flows.cli.output.documents import InspectDocument
    from flows.display.progress_display import RunDisplay
    from sana.data.sources.outputs import check_outside_sources
    from sana.data.tables import read_table
    from sana.model.model_resolver import resolve_model, source_of
    from sana.pipeline.plan import CACHED, check_work_dir, plan
    from sana.runtime.command_specs import InspectSampleSpec, StoredTensor
    from sana.runtime.worker import run_worker

    context = context_of(resolve(config, overrides, root))
    check_work_dir(context.work_dir)
    if out is not None:
        check_outside_sources(context.config, out, "--out")
    artifacts = {p.name: p.artifact for p in plan(context, last="encode_latents") if p.artifact and p.state == CACHED}
    if "encode_latents" not in artifacts:
        todo = f"{program()} run {same_options(config, overrides, root)} --until encode_latents"
        raise SanaError(f"these latents are not encoded yet, or a data set was changed since: {todo}")
    index = read_table(context.store, artifacts["encode_latents"], "index.parquet")
    windows = read_table(context.store, artifacts["bucket"], "clips.parquet")
    sample_id = find_sample(sample, index, windows)
    [latent] = index.filter(pc.equal(index.column("sample_id"), sample_id)).to_pylist()
    window = windows.filter(pc.equal(windows.column("sample_id"), sample_id))
    folder = (out or context.work_dir / "inspect" / sample_id).absolute()
    spec = InspectSampleSpec(
        model=source_of(resolve_model(context.config.model, work_dir=context.work_dir)),
        latent=StoredTensor(**{one.name: latent[one.name] for one in fields(StoredTensor)}),
        captions=tuple(_texts(context, artifacts, window["clip_id"][0].as_py())),
        out_dir=str(folder),
    )
    with RunDisplay() as display:
        run_worker(replace(context, report=display.reporter("inspect")), spec, todo=window)
    found = SampleInspection.load(folder / SampleInspection.FILE)
    say(_lines(sample_id, found))
    video, sheet = f"{folder}/side_by_side.mp4", f"{folder}/contact_sheet.png"
    say(f"{video} (source left, decoded right), {sheet}")
    emit(InspectDocument(sample_id, found.to_value(), video, sheet))


def find_sample(name: str, index: Any, windows: Any) -> str:
    """Return the sample_id that is meant by a sample_id, the beginning of one, or the path of a clip.

    Raises:
        SanaError: there is none, or several; names them, or the nearest.
    """
    import pyarrow.compute as pc

    encoded = index.column("sample_id")
    of_path = windows.filter(pc.equal(windows.column("path"), name)).column("sample_id")
    found = pc.unique(of_path.filter(pc.is_in(of_path, value_set=encoded.combine_chunks()))).to_pylist()
    found = found or pc.unique(encoded.filter(pc.starts_with(encoded, name))).to_pylist()
    if name in found or len(found) == 1:
        return name if name in found else str(found[0])
    if found:
        names = first_of(sorted(found)[:8], len(found))
        raise SanaError(f"{len(found)} samples are meant by {name!r}: {names}; name one")
    known = [*windows.column("path").to_pylist(), *encoded.to_pylist()]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or known[:3]
    raise SanaError(f"no sample and no encoded clip is called {name!r}; near it: {', '.join(near)}")


def _texts(context: Context, artifacts: Mapping[str, Artifact], clip_id: str) -> list[str]:
    import pyarrow.compute as pc

    from sana.data.tables import read_table

    captions = read_table(context.store, artifacts["download"], "captions.parquet")
    return [
        text
        for row in captions.filter(pc.equal(captions.column("clip_id"), clip_id)).to_pylist()
        for text in row["captions"]
    ]


def _lines(sample_id: str, found: SampleInspection) -> str:
    stored = found.stored
    lines = [
        f"sample   {sample_id}",
        f"clip     {found.path}, frames {found.first_frame} to {found.last_frame}, bucket {found.bucket}",
        f"latent   {stored.dtype} {list(stored.shape)}, standard deviation {stored.std}",
        f"PSNR     {found.psnr_db} dB between the source's frames and the decoded latent",
    ]
    return "\n".join([*lines, *(f"caption  {text}" for text in found.captions)])
