"""The state of each stage of a run, which the report is given beside the artifacts."""

from dataclasses import dataclass

from sana.artifact import Artifact


@dataclass(frozen=True)
class StageState:
    """One stage of a run: its artifact, or why there is none; `why` may also qualify an artifact."""

    name: str
    state: str  # a word: committed, cached, completed, reproduced, failed, not run
    artifact: Artifact | None = None
    why: str = ""
