"""The lines of a text: of a whole one, and of blocks that come one after the other."""

from collections.abc import Iterator
from dataclasses import dataclass, field


def lines_of(text: str) -> list[str]:
    """Split at line feeds, with or without a carriage return: str.splitlines also splits inside of sentences."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return lines if lines[-1] else lines[:-1]


@dataclass
class Lines:
    """Lines of text, which can be put back to the start of a record. `number` is that of the last line taken."""

    blocks: Iterator[bytes]
    number: int = 0
    pending: list[str] = field(default_factory=list)  # the next line is the last one
    taken: list[str] = field(default_factory=list)  # of the current record
    carry: bytes = b""  # goes before the next block

    def __iter__(self) -> "Lines":
        return self

    def __next__(self) -> str:
        if not self.pending:
            block = self.next_block()
            if not block:
                raise StopIteration
            self.load(block)
        self.taken.append(self.pending.pop())
        self.number += 1
        return self.taken[-1]

    def next_block(self) -> bytes:
        """Take the next block as it is; b"" at the end."""
        block, self.carry = self.carry + next(self.blocks, b""), b""
        return block

    def load(self, block: bytes) -> None:
        """Take up the lines of a block. Bytes that are not UTF-8 become surrogates, and matter where they are read."""
        lines = block.decode("utf-8", "surrogateescape").split("\n")
        self.pending = [f"{line}\n" for line in lines[:-1]][::-1]
        if lines[-1]:
            self.pending.insert(0, lines[-1])

    def rewind(self) -> None:
        self.pending += self.taken[::-1]
        self.number -= len(self.taken)
        self.taken = []
