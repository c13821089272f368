"""A setting or column added later changes no address while it has its neutral value."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pytest
from pydantic import BaseModel

from sana.config.load import load_config
from sana.config.section import Neutral, Section
from sana.data.schemas import ADDED_COLUMNS, SAMPLE_KEY_COLUMNS
from sana.data.tables import content_digest, sample_key, sample_keys

CONFIGS = [Path(__file__).parents[2] / "configs" / name for name in ("demo.yaml", "sana_video_480p.yaml")]
_PLAIN: dict[str, Any] = (
    dict.fromkeys(SAMPLE_KEY_COLUMNS, 1.0)
    | dict(ADDED_COLUMNS)
    | {
        "digest": "d1",
        "bucket": "5x64x96",
        "start_frame": 0,
    }
)


def sections_of(value: object) -> Iterator[Section]:
    """Yield a section and all below it."""
    if isinstance(value, Section):
        yield value
    children = [getattr(value, name) for name in type(value).model_fields] if isinstance(value, BaseModel) else value
    if isinstance(children, list | tuple):
        for child in children:
            yield from sections_of(child)


def with_setting(section: Section, *values: int) -> list[Section]:
    """Return the section with one more setting, whose neutral value is 7, of each value."""
    kind: Any = type(
        type(section).__name__, (type(section),), {"__annotations__": {"added": Annotated[int, Neutral(7)]}}
    )
    others = {name: getattr(section, name) for name in type(section).model_fields}
    return [kind.model_construct(**others, added=value) for value in values]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_an_added_setting_in_any_section_changes_no_hash_until_it_is_used(path: Path) -> None:
    found = list(sections_of(load_config(path)))
    assert len(found) > 15
    for section in found:
        neutral, used = with_setting(section, 7, 8)
        assert neutral.hashed() == section.hashed()
        assert used.hashed() == {**section.hashed(), "added": 8}


def test_a_setting_without_a_neutral_value_is_hashed_even_at_its_default() -> None:
    class Old(Section):
        size: int = 3
        added: Annotated[float, Neutral(0.0)] = 0.5

    assert Old().hashed() == {"size": 3, "added": 0.5}
    assert Old(added=0.0).hashed() == {"size": 3}


def table(*treatments: str) -> pa.Table:
    rows = [{**_PLAIN, "digest": f"d{number}", "tone_map": name} for number, name in enumerate(treatments)]
    return pa.Table.from_pylist(rows)


def test_an_added_column_changes_only_the_keys_of_rows_that_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, mixed = table("none", "none"), table("none", "hable")
    columns = (*SAMPLE_KEY_COLUMNS, "tone_map")
    frozen = content_digest(plain, SAMPLE_KEY_COLUMNS), sample_keys(plain).to_pylist()
    monkeypatch.setitem(ADDED_COLUMNS, "tone_map", "none")  # type: ignore[arg-type]
    monkeypatch.setattr("sana.data.tables.SAMPLE_KEY_COLUMNS", columns)
    assert (content_digest(plain, columns), sample_keys(plain).to_pylist()) == frozen
    assert content_digest(plain.slice(0, 0), columns) == content_digest(plain.slice(0, 0), SAMPLE_KEY_COLUMNS)
    assert content_digest(mixed, columns) != content_digest(mixed, SAMPLE_KEY_COLUMNS)
    first, second = sample_keys(mixed).to_pylist()
    assert first == frozen[1][0] and second != frozen[1][1]
    assert [sample_key(row) for row in mixed.to_pylist()] == [first, second]
