"""Where torch's compiler keeps what it made, so that a later process compiles nothing."""

import os
import tempfile
from pathlib import Path

_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


def use_compile_cache(folder: Path) -> None:
    """Keep compiled code in a folder. Before the first compilation; a folder that a user has named already is left.

    torch writes its own into the environment as soon as its compiler is imported: torchinductor_USER, a temporary one.
    """
    named = Path(os.environ.get(_VARIABLE, ""))
    is_torchs = named.parent == Path(tempfile.gettempdir()) and named.name.startswith("torchinductor_")
    if not os.environ.get(_VARIABLE) or is_torchs:
        os.environ[_VARIABLE] = str(folder.absolute())
