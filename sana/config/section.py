"""The closed base of every config section, and which settings enter a hash."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator

MAX_SEED = 2**63 - 1


@dataclass(frozen=True)
class Neutral:
    """The value of a setting with which a stage does what it did before that setting existed.

    It stays out of every hash, so a new setting changes no address. It need not be the default. Written as
    `name: Annotated[kind, Neutral(value)] = Field(default, ...)`.
    """

    value: Any


@dataclass(frozen=True)
class HashedAs:
    """The name and values under which a setting enters hashes, where those in a config were changed later.

    Written as `name: Annotated[kind, HashedAs("old_name", {"new value": "old value"})]`.
    """

    name: str
    values: Mapping[str, str]


class Section(BaseModel):
    """A frozen group of settings: an unknown key is an error.

    Settings that change bytes enter fingerprints under their names: both are a frozen wire format, which
    `tests/golden/test_addresses.py` checks. Settings that change speed or permission only are named in
    `UNHASHED` (usually one sub-section, `resources`): changing them reruns nothing.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=True,
        allow_inf_nan=False,  # no hash and no job file can hold them
        use_attribute_docstrings=True,
    )
    UNHASHED: ClassVar[frozenset[str]] = frozenset({"resources"})

    @model_validator(mode="before")
    @classmethod
    def _true_is_no_number(cls, values: Any) -> Any:
        """Give `true` as text where a number is needed, so that it is a mistake: pydantic takes it for 1."""
        if not isinstance(values, Mapping) or not any(isinstance(value, bool) for value in values.values()):
            return values

        def is_number(name: str) -> bool:
            kind = cls.model_fields[name].annotation if name in cls.model_fields else None
            return bool({kind, *get_args(kind)} & {int, float})

        return {k: str(v).lower() if isinstance(v, bool) and is_number(k) else v for k, v in values.items()}

    def hashed(self) -> dict[str, Any]:
        """Return the settings that change bytes, as plain JSON values, without those that have their neutral value."""
        plain = self.model_dump(mode="json")
        hashed: dict[str, Any] = {}
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if name in self.UNHASHED or Neutral(value) in field.metadata:
                continue
            if isinstance(value, Section):
                hashed[name] = value.hashed()
            elif isinstance(value, tuple) and all(isinstance(item, Section) for item in value) and value:
                hashed[name] = [item.hashed() for item in value]
            else:
                hashed |= _hashed_as(name, plain[name], field.metadata)
        return hashed


def _hashed_as(name: str, value: Any, metadata: Sequence[Any]) -> dict[str, Any]:
    for one in metadata:
        if isinstance(one, HashedAs):
            return {one.name: one.values.get(value, value)}
    return {name: value}


def by_todays_names(kind: type[Section], hashed: Mapping[str, Any]) -> dict[str, Any]:
    """Return hashed settings of this section under the names, and with the values, that a config has for them today."""
    shown = dict(hashed)
    for name, field in kind.model_fields.items():
        for one in field.metadata:
            if isinstance(one, HashedAs) and one.name in shown:
                value = shown.pop(one.name)
                shown[name] = next((new for new, old in one.values.items() if old == value), value)
    return shown


def default_member(name: str) -> BeforeValidator:
    """Choose the section `name` of a union where the config does not name one.

    Written as `Kind = Annotated[First | Second, Field(discriminator="name"), default_member("first")]`; each member
    has a literal `name`.
    """
    return BeforeValidator(lambda value: {"name": name, **value} if isinstance(value, Mapping) else value)


def union_members(annotation: Any) -> dict[str, type[Section]]:
    """Return the sections of a union with the discriminator `name`, by name; empty for any other annotation.

    Of a list of such sections, which may be unset, they are those of its entries.
    """
    kinds = get_args(annotation)
    sections = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)]
    if len(sections) < 2:
        return next((found for kind in kinds if get_args(kind) and (found := union_members(kind))), {})
    return {name: kind for kind in sections for name in get_args(kind.model_fields["name"].annotation)}
