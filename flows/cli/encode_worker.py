"""`sana encode-worker` and `sana train-worker`: one machine's part of the work, under Slurm, torchrun or by hand."""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import click

from flows.cli.options import config_options, context_of, program, resolve, same_options
from flows.cli.output.exit_codes import TRY_AGAIN, TryAgainError
from flows.cli.output.json_output import emit, json_option
from flows.display.wrapping import say
from sana.errors import SanaError

# who says which worker this is of how many: ours, Slurm's and torchrun's names
_PLACES = (("SANA_WORKER", "SANA_WORKERS"), ("SLURM_PROCID", "SLURM_NTASKS"), ("RANK", "WORLD_SIZE"))


@click.command("encode-worker")
@config_options
@click.option("--index", type=click.IntRange(min=0), help="Which worker this is, from 0.")
@click.option("--count", type=click.IntRange(min=1), help="How many workers there are.")
@json_option("flows.cli.output.documents:WorkerDocument")
def encode_worker(
    config: str, overrides: Sequence[str], root: str | None, index: int | None, count: int | None
) -> None:
    """Encode a part of the clips; commits its samples, and leaves the rest to `sana run`.

    Everything up to bucket must be there. Without --index and --count: SANA_WORKER and SANA_WORKERS, else what srun
    or torchrun sets, else this is the only one.
    """
    from flows.cli.output.documents import WorkerDocument
    from flows.display.progress_display import RunDisplay
    from sana.pipeline.observers import COMPLETED, StageEnd
    from sana.pipeline.plan import check_work_dir, inputs_of
    from sana.stages import encode_latents as stage

    index, count = place(os.environ, index, count)
    context = context_of(resolve(config, overrides, root))
    check_work_dir(context.work_dir)
    command = f"{program()} run {same_options(config, overrides, root)}"
    inputs = inputs_of(context, stage.NAME, command=command)
    with RunDisplay() as display:
        context = replace(context, report=display.reporter(stage.NAME))
        num_samples = stage.encode_partition(context, inputs, index=index, count=count)
        display.on_event(StageEnd(stage.NAME, COMPLETED))
    say(f"worker {index} of {count}: all of {num_samples} samples that were missing are in the pool")
    say(f"when all have ended: {command}", command=command)
    emit(WorkerDocument(index, count, num_samples, None, command))


@click.command("train-worker")
@config_options
@json_option("flows.cli.output.documents:WorkerDocument")
def train_worker(config: str, overrides: Sequence[str], root: str | None) -> None:
    """Be one rank of the training, started by torchrun, srun or a Kubernetes job; rank 0 commits.

    Everything up to the encode stages must be there. Ranks meet as torchrun or srun says, or by RANK, WORLD_SIZE,
    MASTER_ADDR and MASTER_PORT. Started again, they resume from the newest checkpoint. Exit codes: 0 trained;
    1 something to mend; 75 start it again (SIGUSR1, a rank or a machine that is gone, storage); 143 and 130
    ended by SIGTERM or Ctrl-C, and saved.
    """
    from flows.cli.output.documents import WorkerDocument
    from sana.pipeline.run_recorder import RunRecorder
    from sana.pipeline.train_rank import exit_code_of, train_rank
    from tasks.tracking.values import pipeline_key, resolved_yaml

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    command = f"{program()} run {same_options(config, overrides, root)}"
    context = context_of(resolve(config, overrides, root))
    try:
        made = train_rank(
            context,
            os.environ,
            command=command,
            title=Path(config).stem,
            observers=lambda: [RunRecorder(resolved_yaml(context.config), pipeline_key(context.config))],
        )
    except SanaError as error:
        if exit_code_of(error) == TRY_AGAIN:
            raise TryAgainError(str(error)) from error
        raise
    if made is not None:
        say(f"trained: {context.store.root}/train/{made.fingerprint}")
        say(f"what follows: {command}", command=command)
    rank, num_ranks = (int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
    emit(WorkerDocument(rank, num_ranks, None, made.key if made else None, command))


def place(environ: Mapping[str, str], index: int | None, count: int | None) -> tuple[int, int]:
    """Return (index, count) of this worker: as given, else by the environment, else the only one.

    Raises:
        click.UsageError: one of the two is missing, or the index is not below the count.
    """
    if (index is None) != (count is None):
        raise click.UsageError("--index and --count belong together: which worker this is, of how many")
    if index is None or count is None:
        names = next((pair for pair in _PLACES if all(environ.get(name, "").isdigit() for name in pair)), None)
        index, count = (int(environ[names[0]]), int(environ[names[1]])) if names else (0, 1)
    if index >= count:
        raise click.UsageError(f"worker {index} of {count}: indices go from 0 to {count - 1}")
    return index, count


COMMANDS = (encode_worker, train_worker)
