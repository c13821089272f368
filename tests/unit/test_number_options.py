"""Numbers on the command line: what is none is a line of usage, not a traceback."""

import pytest

from flows.cli.main import main


@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "-1", "3,5"])
@pytest.mark.parametrize(
    "command",
    [
        ["plan", "c", "--price-per-hour"],
        ["calibrate", "c", "--memory-gib"],
        ["gc", "c", "--grace-hours"],
    ],
    ids=lambda command: command[-1],
)
def test_a_number_that_is_none_is_said(command: list[str], number: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*command, number])
    assert ended.value.code == 2
    assert f"Invalid value for '{command[-1]}'" in capsys.readouterr().err
