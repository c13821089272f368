"""Config of captions: where a data set has them, and what is added to them."""

import codecs
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from sana.config.section import Neutral, Section

NULL_WORDS = ("#N/A", "<NA>", "N/A", "NA", "NaN", "None", "null")  # as pandas and others write a missing cell


class CaptionsConfig(Section):
    """Where the captions of a data set are, and what is added to them."""

    layout: Literal["auto", "textfile", "metadata", "lines", "none"] = Field(
        "auto",
        description="where captions are: `textfile`, a .txt with the video's stem, one alternative a line; `metadata`, "
        "a metadata.csv, .jsonl or .parquet beside the videos; `lines`, prompts.txt and videos.txt, line by line; "
        "`none`, every clip gets the fallback; `auto`, the first found of metadata, lines, textfile, where a table in "
        "a sub-folder speaks for the videos in it. A source that is itself a table has its captions in it",
    )
    lines: Annotated[Literal["alternatives", "one"], Neutral("alternatives")] = Field(
        "alternatives",
        description="of a .txt beside a video: each line is an alternative caption, or the whole file is `one` "
        "caption, with its line feeds",
    )
    encoding: Annotated[str, Neutral("utf-8")] = Field(
        "utf-8",
        description="encoding of texts and of .csv and .jsonl tables, as Python names it (cp1252, gbk, utf-16-le, "
        "...); a byte order mark in a file goes before it",
    )
    delimiter: Annotated[str, Neutral("auto")] = Field(
        "auto",
        pattern=r"^(auto|tab|\t|[!#-/:-@\[\]^_`{-~])$",
        description="what separates the cells of a .csv table: one character, or `tab`; `auto`: the one of , ; tab "
        "and | with which the first line names the columns",
    )
    null_words: Annotated[tuple[str, ...], Neutral(NULL_WORDS)] = Field(
        NULL_WORDS,
        description="cells of a table that stand for no caption, in upper or lower case; [] takes them as captions",
    )
    video_column: str | None = Field(
        None, min_length=1, description="table column with the video; unset: file_name, video, path, uri or url"
    )
    text_columns: tuple[str, ...] = Field(
        (),
        description="table columns with captions: several, or lists, are alternatives; unset: the first that exists of "
        "text, caption, captions, prompt",
    )
    source_column: str | None = Field(
        None, min_length=1, description="table column with the source_id; unset: source_id, if it exists"
    )
    motion_score_column: str | None = Field(
        None,
        min_length=1,
        description="table column with a motion score, which is added to the caption as ` motion score: N.`, the "
        "way the official training does; unset: none",
    )
    missing: Literal["reject", "fallback"] = Field(
        "reject", description="a clip without a caption is rejected, or gets the fallback"
    )
    fallback: str = Field("", description="the instance prompt: the caption of clips that have none")
    prefix: str = Field("", description="put before every caption, unchanged")
    suffix: str = Field("", description="put after every caption, unchanged")
    trigger: str = Field(
        "", description="a word that every caption must contain: put first, with a comma, where it is missing"
    )

    @field_validator("encoding")
    @classmethod
    def _encoding_is_known(cls, encoding: str) -> str:
        try:
            "".encode(encoding)  # unlike a look-up, this refuses what is no encoding of text, such as hex
            return codecs.lookup(encoding).name
        except (LookupError, ValueError) as error:
            raise ValueError(f"{encoding!r} is no encoding that Python knows, such as utf-8, cp1252 or gbk") from error

    @model_validator(mode="after")
    def _fallback_is_used(self) -> Self:
        needs_fallback = self.missing == "fallback" or self.layout == "none"
        if needs_fallback and not self.fallback.strip():
            raise ValueError("fallback is empty, but missing: fallback, or layout: none, needs it; write a caption")
        if self.fallback and not needs_fallback:
            raise ValueError("fallback has no effect with missing: reject; set missing: fallback, or remove it")
        return self

    @model_validator(mode="after")
    def _columns_need_a_table(self) -> Self:
        if self.layout in ("textfile", "lines") and self.columns:
            raise ValueError(f"{', '.join(self.columns)}: layout {self.layout} has no columns; remove it")
        if self.layout in ("textfile", "lines") and self.delimiter != "auto":
            raise ValueError(f"delimiter: layout {self.layout} has no table; remove it")
        if self.layout in ("metadata", "lines", "none") and self.lines != "alternatives":
            raise ValueError(f"lines: {self.lines} is for layout textfile, not {self.layout}; remove it")
        if len(set(self.text_columns)) != len(self.text_columns):
            raise ValueError(f"text_columns names a column twice: {', '.join(self.text_columns)}")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """The settings that name a column of a table, where set."""
        settings = ("video_column", "text_columns", "source_column", "motion_score_column")
        return tuple(name for name in settings if getattr(self, name))
