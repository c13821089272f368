"""Questions in a terminal, each with an answer to begin with; or none, and those answers."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from sana.errors import SanaError

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

        while True:
            ask = questionary.path if is_path else questionary.text
            answer = ask(question, default=proposed, qmark="?", **self._options).unsafe_ask()
            answer = str(answer).strip()
            if not (wrong := check(answer)):
                return answer
            self._say(f"  {wrong}")
            proposed = answer or proposed

    def choose(self, question: str, choices: Sequence[tuple[str, str]], proposed: str, *, flag: str) -> str:  # noqa: ARG002
        import questionary

        listed = [questionary.Choice(title, value=value) for value, title in choices]
        at_first = next(choice for choice in listed if choice.value == proposed)
        answer = questionary.select(question, listed, default=at_first, qmark="?", **self._options).unsafe_ask()
        return str(answer)

    def say(self, line: str) -> None:
        self._say(line)
