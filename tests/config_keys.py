"""Every key that a config may have, as dotted names; `*` stands for a position in a list."""

from typing import get_args

from sana.config.pipeline import Config
from sana.config.section import Section, union_members


def dotted(section: type[Section] = Config, prefix: str = "") -> set[str]:
    """Return the keys of a section and of all below it, those of every member of a union."""
    names = set()
    for name, field in section.model_fields.items():
        names.add(f"{prefix}{name}")
        kinds = list(union_members(field.annotation).values())
        kinds += [k for k in (field.annotation, *get_args(field.annotation)) if isinstance(k, type)]
        for kind in kinds:
            if issubclass(kind, Section):
                listed = "*." if str(field.annotation).startswith("tuple") else ""
                names |= dotted(kind, f"{prefix}{name}.{listed}")
    return names
