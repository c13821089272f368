"""The closed base of every config section."""

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A frozen group of knobs: an unknown key is an error.

    Knobs that change bytes stand in the section and enter fingerprints. Knobs that change speed or permission only
    are named in `UNHASHED` (usually one sub-section, `resources`): changing them reruns nothing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, use_attribute_docstrings=True)
    UNHASHED: ClassVar[frozenset[str]] = frozenset({"resources"})

    def hashed(self) -> dict[str, Any]:
        """Return the knobs that change bytes, as plain JSON values."""
        dumped: dict[str, Any] = {}
        for name in type(self).model_fields:
            if name in self.UNHASHED:
                continue
            value = getattr(self, name)
            dumped[name] = value.hashed() if isinstance(value, Section) else self.model_dump(mode="json")[name]
        return dumped
