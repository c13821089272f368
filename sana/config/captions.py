"""Config of captions: where a data set keeps them, and what is put around them."""

from typing import Literal, Self

from pydantic import Field, model_validator

from sana.config.section import Section


class CaptionsConfig(Section):
    layout: Literal["auto", "textfile", "metadata", "lines", "none"] = Field(
        "auto",
        description="where captions are: `textfile`, a .txt with the video's stem, one alternative a line; `metadata`, "
        "a metadata.csv, .jsonl or .parquet beside the videos; `lines`, prompts.txt and videos.txt, line by line; "
        "`none`, every clip gets the fallback; `auto`, what is found, in the order metadata, lines, textfile. "
        "A source that is itself a table has its captions in it",
    )
    video_column: str | None = Field(
        None, min_length=1, description="table column with the video; unset: file_name, video, path, uri or url"
    )
    text_columns: tuple[str, ...] = Field(
        (),
        description="table columns with captions: several, or lists, are alternatives; unset: the first there is of "
        "text, caption, captions, prompt",
    )
    source_column: str | None = Field(
        None, min_length=1, description="table column with the source_id; unset: source_id, where there is one"
    )
    motion_score_column: str | None = Field(
        None,
        min_length=1,
        description="table column with a motion score, which is put behind the caption as ` motion score: N.`, the "
        "way the official training does; unset: none",
    )
    missing: Literal["reject", "fallback"] = Field(
        "reject", description="a clip without a caption is rejected, or gets the fallback"
    )
    fallback: str = Field("", description="the instance prompt: the caption of clips that have none")
    prefix: str = Field("", description="put before every caption, as it stands")
    suffix: str = Field("", description="put behind every caption, as it stands")
    trigger: str = Field("", description="a word that every caption must hold: put first, with a comma, where it lacks")

    @model_validator(mode="after")
    def _fallback_has_a_use(self) -> Self:
        wants = self.missing == "fallback" or self.layout == "none"
        if wants and not self.fallback.strip():
            raise ValueError("fallback is empty, but missing: fallback, or layout: none, needs it; write a caption")
        if self.fallback and not wants:
            raise ValueError("fallback has no effect with missing: reject; set missing: fallback, or remove it")
        return self

    @model_validator(mode="after")
    def _columns_have_a_table(self) -> Self:
        if self.layout in ("textfile", "lines") and self.columns:
            raise ValueError(f"{', '.join(self.columns)}: layout {self.layout} has no columns; remove it")
        if len(set(self.text_columns)) != len(self.text_columns):
            raise ValueError(f"text_columns names a column twice: {', '.join(self.text_columns)}")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """The knobs that name a column of a table."""
        knobs = ("video_column", "text_columns", "source_column", "motion_score_column")
        return tuple(knob for knob in knobs if getattr(self, knob))
