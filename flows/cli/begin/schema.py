"""`sana schema`: what editors complete and check the keys of a config by."""

from pathlib import Path

import click

from flows.display.wrapping import say


@click.command()
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="write it there, over what is there"
)
def schema(output: Path | None) -> None:
    """Print the JSON schema of a config, by which editors complete and check its keys.

    A config names it in its first line, as those that `sana init` writes do.
    """
    from sana.config.json_schema import PATH
    from sana.errors import ConfigError

    text = PATH.read_text(encoding="utf-8")
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {output}: {error.strerror}; name a file in a folder that is there") from error
    say(f"wrote {output}; first line of a config: # yaml-language-server: $schema={output}")
