"""Questions in a terminal, each with an answer to begin with; or none, and those answers."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from flows.display.wrapping import rows_of, terminal_width
from sana.errors import SanaError

_MARGIN = 4  # columns of what questionary puts around a question, and a cursor
Check = Callable[[str], str]  # an answer -> what is wrong with it, "" if nothing


class Asker(Protocol):
    """Asks a person, or gives the answer that is proposed."""

    can_ask: bool

    def text(self, question: str, proposed: str, check: Check, *, flag: str, is_path: bool = False) -> str: ...
    def choose(self, question: str, choices: Sequence[tuple[str, str]], proposed: str, *, flag: str) -> str: ...
    def say(self, line: str) -> None: ...


class Proposals:
    """`--yes`: nothing is asked. A proposal that is not good is an error that names the flag."""

    can_ask = False

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say

    def text(self, question: str, proposed: str, check: Check, *, flag: str, is_path: bool = False) -> str:  # noqa: ARG002
        if wrong := check(proposed):
            raise SanaError(f"{wrong}; choose another by {flag}")
        return proposed

    def choose(self, question: str, choices: Sequence[tuple[str, str]], proposed: str, *, flag: str) -> str:  # noqa: ARG002
        return proposed

    def say(self, line: str) -> None:
        self._say(line)


class Terminal:
    """Asks in the terminal. Ctrl-C in a question is KeyboardInterrupt."""

    can_ask = True

    def __init__(self, say: Callable[[str], None], **options: Any) -> None:
        self._say, self._options = say, options  # options: input and output of prompt_toolkit, for tests

    def text(self, question: str, proposed: str, check: Check, *, flag: str, is_path: bool = False) -> str:  # noqa: ARG002
        import questionary

        ask, width = questionary.path if is_path else questionary.text, terminal_width()
        while True:
            offered = ""  # a text of several rows is shown by words: what is edited breaks where a row ends
            if width and len(proposed) + _MARGIN > width and " " in proposed:
                self._say(f"  proposed, and taken by Enter: {proposed}")
                offered, proposed = proposed, ""
            answer = ask(_asked(question, [proposed]), default=proposed, qmark="?", **self._options).unsafe_ask()
            answer = str(answer).strip() or offered
            if not (wrong := check(answer)):
                return answer
            self._say(f"  {wrong}")
            proposed = answer or proposed

    def choose(self, question: str, choices: Sequence[tuple[str, str]], proposed: str, *, flag: str) -> str:  # noqa: ARG002
        import questionary

        listed = [questionary.Choice(_broken(title), value=value) for value, title in choices]
        at_first = next(choice for choice in listed if choice.value == proposed)
        answer = questionary.select(
            _asked(question, [title for _, title in choices]), listed, default=at_first, qmark="?", **self._options
        ).unsafe_ask()
        return str(answer)

    def say(self, line: str) -> None:
        self._say(line)


def _broken(text: str) -> str:
    """Break a question between words: the terminal would do it where a row ends."""
    width = terminal_width()
    return "\n".join(rows_of(text, max(width - _MARGIN, 1) if width else 0))


def _asked(question: str, answers: Sequence[str]) -> str:
    """Break a question; the answer begins on a row of its own where one of these would not fit behind it."""
    text, width = _broken(question), terminal_width()
    needed = len(text.rpartition("\n")[2]) + _MARGIN + max(map(len, answers), default=0)
    return f"{text}\n" if width and needed >= width else text
