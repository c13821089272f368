"""Records: what one process or stage hands over to another, or leaves in storage. Frozen, closed, checked when read.

A record is a frozen dataclass below `Record`. As JSON it is an object of its fields; the outermost one also has a
`format`, the version of its layout. A field without a default must be there, a field that is not known must not: so
a field that is added later needs a default, which is what records before it mean, or a new `FORMAT`.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import ConfigDict, JsonValue, TypeAdapter, ValidationError

from sana.errors import SanaError

JsonObject = Mapping[str, JsonValue]

REMEDY = "remove it and run again"
_MAX_FAULTS = 3  # named in an error


class DamagedRecordError(SanaError):
    """What was read is no JSON, or not of the fields and types that its class has."""


class Record:
    """The base of records. Numbers are finite; floats come back bit by bit; an int is not taken for a bool or text."""

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
    def from_json(cls, data: bytes | str, *, where: str, remedy: str = REMEDY) -> Self:
        """Read what `to_json` wrote. `where` names it in errors, `remedy` says how it is made again.

        Raises:
            DamagedRecordError: it is not JSON, or a field is missing, unknown or of another type.
            SanaError: it is of another version of this software.
        """
        try:
            value = json.loads(data)
        except ValueError as error:  # bytes that are no UTF-8 as well
            raise DamagedRecordError(f"{where} is damaged: {error}; {remedy}") from error
        return cls.from_value(value, where=where, remedy=remedy)

    @classmethod
    def from_value(cls, value: JsonValue, *, where: str, remedy: str = REMEDY) -> Self:
        """Check plain JSON values, `format` among them. Raises as `from_json` does."""
        if not isinstance(value, dict):
            raise DamagedRecordError(f"{where} is damaged: it is no JSON object; {remedy}")
        if value.get("format") != cls.FORMAT:
            raise SanaError(
                f"{where} was written by another version of this software (format {value.get('format')!r}, this one "
                f"reads {cls.FORMAT}): use that version, or {remedy}"
            )
        fields = {name: child for name, child in value.items() if name != "format"}
        try:
            # from text, as only there a list may stand for a tuple and an object for a record
            record: Self = cls._adapter().validate_json(json.dumps(fields))
        except ValidationError as error:
            faults = error.errors(include_url=False)
            told = [f"{'.'.join(map(str, fault['loc'])) or 'it'}: {fault['msg']}" for fault in faults[:_MAX_FAULTS]]
            more = f" and {len(faults) - _MAX_FAULTS} more" if len(faults) > _MAX_FAULTS else ""
            raise DamagedRecordError(f"{where} is damaged: {'; '.join(told)}{more}; {remedy}") from error
        return record

    @classmethod
    def load(cls, path: Path, *, remedy: str = REMEDY) -> Self:
        """Read a local file. Raises as `from_json` does, and SanaError when the file is not there."""
        try:
            data = path.read_bytes()
        except FileNotFoundError as error:
            raise SanaError(f"there is no {path}; {remedy}") from error
        return cls.from_json(data, where=str(path), remedy=remedy)

    @classmethod
    def _adapter(cls) -> TypeAdapter[Any]:
        if cls not in _ADAPTERS:
            _ADAPTERS[cls] = TypeAdapter(cls)
        return _ADAPTERS[cls]


_ADAPTERS: dict[type[Record], TypeAdapter[Any]] = {}  # made once, when first read
