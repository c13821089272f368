"""`sana demo`: the whole pipeline on the clips that come with this package, in a folder of its own."""

import importlib.metadata
import os
import shlex
import shutil
import sys
from pathlib import Path

import click

from flows.cli.output.json_output import json_option
from flows.display.wrapping import say
from sana.errors import SanaError

PACKAGE = "sana-video-pipeline"
CONFIG = "configs/demo.yaml"
_INSTALLED = f"share/{PACKAGE}/"  # below the environment's folder: data-files of pyproject.toml


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path), default="sana-demo")
@json_option("flows.cli.output.documents:RunDocument")
@click.pass_context
def demo(context: click.Context, folder: Path) -> None:
    """Run the whole pipeline on 16 short clips with a tiny model, in FOLDER (sana-demo): two minutes on a CPU.

    Nothing of FOLDER is overwritten: what an earlier demo has made there is kept and found.
    """
    from flows.cli.run import run

    os.environ.setdefault("OMP_NUM_THREADS", "1")  # two threads make a model this small slower on a busy machine
    copy_demo(folder)
    if "/" in sys.argv[0]:  # how this program was called, which the commands at the end repeat
        sys.argv[0] = str(Path(sys.argv[0]).absolute())
    os.chdir(folder)  # paths of the config are relative to where it is run
    say(f"the demo is in {folder}: from there, sana run {CONFIG} does the same", err=True)
    _make_model(Path(".sana/tiny"))
    context.invoke(
        run, config=CONFIG, overrides=(), root=None, until=None, force=(), record=False, rehash=False, wants_json=False
    )
    say(f"these commands are for the folder of the demo: cd {shlex.quote(str(folder))}")


def _make_model(folder: Path) -> None:
    if (folder / "model_index.json").exists():
        return
    from sana.runtime.worker_process import hide_torchao

    hide_torchao()
    from sana.model.tiny_model import build_tiny_model

    say("making a tiny model with random weights", err=True)
    build_tiny_model(folder, seed=0)


def copy_demo(folder: Path) -> None:
    """Copy the demo's config and clips into a folder as `configs/`; files that are there are kept.

    Raises:
        SanaError: this installation has no demo, or the folder cannot be written.
    """
    files = demo_files()
    if CONFIG not in files:
        raise SanaError(f"this installation has no demo files; install {PACKAGE} again, or use `make demo` of a clone")
    try:
        for name, source in files.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                shutil.copyfile(source, target)
    except OSError as error:
        raise SanaError(f"cannot write the demo to {folder}: {error.strerror}; name another folder") from error


def demo_files() -> dict[str, Path]:
    """Return the files of the demo by their name in a clone, such as configs/demo/clips/bunny-00.mp4."""
    clone = Path(__file__).parents[3] / "configs"
    if (clone / "demo.yaml").exists():
        paths = [clone / "demo.yaml", *sorted((clone / "demo" / "clips").iterdir())]
        return {str(path.relative_to(clone.parent)): path for path in paths}
    installed = importlib.metadata.files(PACKAGE) or []
    found = {path.as_posix().partition(_INSTALLED)[2]: Path(str(path.locate())) for path in installed}
    return {name: path for name, path in found.items() if name.startswith("configs/")}
