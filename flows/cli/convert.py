"""`sana convert-simpletuner`: a run of SimpleTuner becomes a config of this pipeline."""

from pathlib import Path

import click

from sana.errors import SanaError


@click.command("convert-simpletuner")
@click.argument("config", type=click.Path(dir_okay=False, path_type=Path))
@click.argument("backends", type=click.Path(dir_okay=False, path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False, path_type=Path), help="YAML to write.")
@click.option(
    "--num-processes", default=1, show_default=True, type=click.IntRange(min=1), help="GPUs that run was started on."
)
def convert_simpletuner(config: Path, backends: Path, output: Path, num_processes: int) -> None:
    """Turn SimpleTuner's CONFIG (config.json) and BACKENDS (multidatabackend.json) into a config that validates.

    Every key is mapped, or listed with the reason why it is not and what is used instead.
    """
    from flows.cli.conversion import conversion_text
    from sana.config.load import load_config
    from sana.convert.simpletuner import convert
    from sana.convert.yaml_text import yaml_text

    if output.exists():
        raise SanaError(f"{output} is there already and may hold your own changes; choose another -o, or remove it")
    conversion = convert(config, backends, num_processes=num_processes)
    title = f"Made by `sana convert-simpletuner {config} {backends}`; in brackets: the names of keys there."
    try:
        output.write_text(yaml_text(conversion, title=title), encoding="utf-8")
    except OSError as error:
        raise SanaError(f"cannot write {output}: {error.strerror}") from error
    try:
        load_config(output)
    except SanaError as error:
        raise SanaError(f"{error}\n{output} is written, but not valid yet: fix these keys in it") from error
    click.echo(conversion_text(conversion))
    click.echo(f"\nwrote {output}, which is valid; next: sana validate {output}")
