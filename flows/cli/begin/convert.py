"""`sana convert-simpletuner`: a run of SimpleTuner becomes a config of this pipeline."""

import shlex
from pathlib import Path

import click

from flows.cli.options import program
from flows.cli.output.json_output import emit, json_option
from flows.display.wrapping import say
from sana.errors import SanaError


@click.command("convert-simpletuner")
@click.argument("config", type=click.Path(dir_okay=False, path_type=Path))
@click.argument("backends", type=click.Path(dir_okay=False, path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False, path_type=Path), help="YAML to write.")
@click.option(
    "--num-processes", default=1, show_default=True, type=click.IntRange(min=1), help="GPUs that run was started on."
)
@click.option(
    "--keep-clipping",
    is_flag=True,
    help="Keep max_grad_norm 0 (gradients are not clipped); without it they are clipped to norm 0.1, as officially.",
)
@json_option("flows.cli.output.documents:ConversionDocument")
def convert_simpletuner(config: Path, backends: Path, output: Path, num_processes: int, keep_clipping: bool) -> None:
    """Turn SimpleTuner's CONFIG (config.json) and BACKENDS (multidatabackend.json) into a config that validates.

    Every key is mapped, or listed with the reason why it is not and what is used instead, in a file beside the YAML.
    """
    from flows.cli.begin.conversion import document, summary
    from sana.config.json_schema import schema_line
    from sana.config.load import load_config
    from sana.convert.markdown import markdown_text
    from sana.convert.simpletuner import convert
    from sana.convert.yaml_text import yaml_text

    tables = output.with_suffix(".conversion.md")
    for path in (output, tables):
        if path.exists():
            raise SanaError(f"{path} is there already and may hold your own changes; choose another -o, or remove it")
    conversion = convert(config, backends, num_processes=num_processes, keep_clipping=keep_clipping)
    made = f"Made by `sana convert-simpletuner {config} {backends}`"
    text = yaml_text(conversion, title=f"{made}; in brackets: the names of keys there.")
    _write(output, f"{schema_line(output)}\n{text}")
    _write(tables, markdown_text(conversion, title=f"{made}: what became of each key"))
    try:
        load_config(output)
    except SanaError as error:
        raise SanaError(f"{error}\n{output} is written, but not valid yet: fix these keys in it") from error
    command = f"{program()} validate {shlex.quote(str(output))}"
    say("\n".join(summary(conversion, tables, command)))
    emit(document(conversion, output, tables, command))


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SanaError(f"cannot write {path}: {error.strerror}") from error
