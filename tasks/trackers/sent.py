"""What trackers have of a training already, kept in work_dir so that a resumed one continues the same curves."""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self


@dataclass
class Sent:
    """`started_s`: when the training was first told, Unix time; `step`: the last that was sent, -1 for none."""

    path: Path
    started_s: float
    step: int

    @classmethod
    def of(cls, path: Path) -> Self:
        """Read what was kept; a file that is missing or damaged is a training that nobody has heard of."""
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            return cls(path, float(kept["started_s"]), int(kept["step"]))
        except (OSError, ValueError, KeyError, TypeError):
            return cls(path, time.time(), -1)

    def keep(self, step: int) -> None:
        """Note the last step that was sent.

        Raises:
            OSError: work_dir cannot be written.
        """
        self.step = max(step, self.step)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps({"started_s": self.started_s, "step": self.step}), encoding="utf-8")
        os.replace(temporary, self.path)
