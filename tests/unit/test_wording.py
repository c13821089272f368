"""Messages: an error on one line, a nickname as a file name."""

import pytest

from sana.wording import as_file_name, one_line


@pytest.mark.parametrize(
    ("error", "settings", "expected"),
    [
        (ValueError("two\n  lines"), {}, "two lines"),
        (ValueError("two\n  lines"), {"with_type": True}, "ValueError: two lines"),
        (MemoryError(), {}, "MemoryError"),
        (MemoryError(), {"with_type": True}, "MemoryError"),
        ("a\ntext", {"with_type": True}, "a text"),
        ("", {}, ""),
        (OSError("x" * 20), {"most": 10}, "xxxxxxx..."),
        (OSError("x" * 10), {"most": 10}, "xxxxxxxxxx"),
    ],
)
def test_an_error_is_one_line(error: BaseException | str, settings: dict, expected: str) -> None:
    assert one_line(error, **settings) == expected


def test_a_nickname_is_a_file_name() -> None:
    assert as_file_name("<token> cat") == "_token_ cat"
