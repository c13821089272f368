"""Records: what one process or stage hands to another, or keeps in storage. Frozen, closed, checked when read.

A record is a frozen dataclass below `Record`. As JSON it is an object of its fields; the outermost one also has a
`format`, the version of its layout. A field without a default must be there; an unknown field is an error. So a
field that is added later needs a default, which holds for older records, or a new `FORMAT`.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import ConfigDict, JsonValue, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from sana.errors import SanaError
from sana.wording import one_line, without_controls

JsonObject = Mapping[str, JsonValue]

DEFAULT_REPAIR_HINT = "remove it and run again"
_MAX_FAULTS = 3  # named in an error


class DamagedRecordError(SanaError):
    """What was read is not JSON, or does not have the fields and types of its class."""


class Record:
    """The base of records. Numbers are finite; floats are read back bit by bit; an int is no bool and no text."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    FORMAT: ClassVar[int] = 1

    def to_json(self, *, indent: int | None = 1, sort_keys: bool = False, ascii_only: bool = True) -> bytes:
        """Write the record with its format as JSON in UTF-8, ended by a newline; `indent=None`: on one line.

        Raises:
            ValueError: a number is not finite.
        """
        value = {"format": self.FORMAT, **self._stored()}
        text = json.dumps(value, indent=indent, sort_keys=sort_keys, ensure_ascii=ascii_only, allow_nan=False)
        return f"{text}\n".encode()

    def to_value(self) -> dict[str, JsonValue]:
        """Return what `to_json` writes, as the plain values that it is read back to."""
        value: dict[str, JsonValue] = json.loads(self.to_json(indent=None))
        return value

    def _stored(self) -> dict[str, Any]:
        return asdict(self)  # type: ignore[call-overload, no-any-return]  # every subclass is a dataclass

    @classmethod
    def from_json(cls, data: bytes | str, *, where: str, repair_hint: str = DEFAULT_REPAIR_HINT) -> Self:
        """Read what `to_json` wrote. `where` names it in errors; `repair_hint` ends them.

        Raises:
            DamagedRecordError: it is not JSON, or a field is missing, unknown or of another type.
            SanaError: it is of another version of this software.
        """
        try:
            value = json.loads(data)
        except (ValueError, RecursionError) as error:  # bytes that are no UTF-8 as well
            raise DamagedRecordError(f"{where} is damaged: {error}; {repair_hint}") from error
        return cls.from_value(value, where=where, repair_hint=repair_hint)

    @classmethod
    def from_value(cls, value: JsonValue, *, where: str, repair_hint: str = DEFAULT_REPAIR_HINT) -> Self:
        """Check plain JSON values, `format` among them. Raises as `from_json` does."""
        if not isinstance(value, dict):
            raise DamagedRecordError(f"{where} is damaged: it is no JSON object; {repair_hint}")
        if value.get("format") != cls.FORMAT:
            raise SanaError(
                f"{where} was written by another version of this software (format {value.get('format')!r}, this one "
                f"reads {cls.FORMAT}): use that version, or {repair_hint}"
            )
        fields = {name: child for name, child in value.items() if name != "format"}
        try:
            # from text, as only there a list may stand for a tuple and an object for a record
            record: Self = cls._adapter().validate_json(json.dumps(fields))
        except ValidationError as error:
            faults = error.errors(include_url=False)
            details = [_detail(fault) for fault in faults[:_MAX_FAULTS]]
            more = f" and {len(faults) - _MAX_FAULTS} more" if len(faults) > _MAX_FAULTS else ""
            raise DamagedRecordError(f"{where} is damaged: {'; '.join(details)}{more}; {repair_hint}") from error
        return record

    @classmethod
    def load(cls, path: Path, *, repair_hint: str = DEFAULT_REPAIR_HINT) -> Self:
        """Read a local file. Raises as `from_json` does, and SanaError when the file is not there."""
        try:
            data = path.read_bytes()
        except FileNotFoundError as error:
            raise SanaError(f"there is no {path}; {repair_hint}") from error
        return cls.from_json(data, where=str(path), repair_hint=repair_hint)

    @classmethod
    def _adapter(cls) -> TypeAdapter[Any]:
        if cls not in _ADAPTERS:
            _ADAPTERS[cls] = TypeAdapter(cls)
        return _ADAPTERS[cls]


def _detail(fault: ErrorDetails) -> str:
    where = ".".join(map(str, fault["loc"]))  # a key may be whatever the one who wrote it liked
    return f"{one_line(without_controls(where), most=100) or 'it'}: {fault['msg']}"


_ADAPTERS: dict[type[Record], TypeAdapter[Any]] = {}  # made once, when first read
