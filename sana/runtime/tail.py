"""What is appended to a file while another process writes it."""

from dataclasses import dataclass
from pathlib import Path


@dataclass
class Tail:
    """The whole lines that were appended to a file since the last look; the file may not exist yet."""

    path: Path
    offset: int = -1

    def __post_init__(self) -> None:
        self.offset = self.path.stat().st_size if self.path.exists() else 0

    def new_lines(self) -> list[str]:
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            file.seek(self.offset)
            whole, newline, _ = file.read().rpartition(b"\n")
        self.offset += len(whole) + len(newline)
        return whole.decode("utf-8", errors="replace").splitlines()
