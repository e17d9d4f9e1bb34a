"""``[model]`` and ``[data]``: what is trained, on what."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from tunesmith.settings.section import Section


def _as_source(value: Any) -> Any:
    return {"path": value} if isinstance(value, str | Path) else value


def _as_sources(value: Any) -> Any:
    """One source needs no brackets."""
    return (value,) if isinstance(value, str | Path | Mapping) else value


Column = Literal["question", "context", "answer", "system", "text", "messages", "chosen", "rejected", "label"]


class SourceTable(Section):
    path: str
    """A file or a folder, relative to data.folder; "dataset_info.json#NAME" for a data set of LLaMA-Factory's
    registry; "hf:OWNER/NAME" or "modelscope:OWNER/NAME" for one of a hub."""
    kind: Literal["auto", "rows", "documents", "blog-index", "wikisql", "taught"] = "auto"
    """What is there: "rows" of questions and answers, "documents" of prose, a "blog-index" (a Markdown list of links to
    articles), "wikisql" (WikiSQL's own format), "taught" (a teacher's rows.jsonl); "auto" goes by the file."""
    columns: dict[Column, str] = {}
    """Which column or key holds what, where it is not recognised: {question = "Frage", answer = "Antwort"}."""
    table: str | None = None
    """The sheet of a workbook, the table of an SQLite file; empty: all sheets, or the only table."""
    query: str | None = None
    """For an SQLite file: the SELECT whose rows are read, instead of a table."""
    marker: str | None = None
    """For a blog index: the line behind which the list begins; empty: the top."""
    filter: str | None = None
    """For a blog index: only the articles whose line holds this word, whatever its case."""
    tables: str | None = None
    """For "wikisql": the file with the tables."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Read only that many rows or documents from the top."""


Source = Annotated[SourceTable, BeforeValidator(_as_source)]
Sources = Annotated[tuple[Source, ...], BeforeValidator(_as_sources)]
Part = Annotated[Annotated[float, Field(ge=0, lt=1)] | Sources, Field(union_mode="left_to_right")]


class ModelSettings(Section):
    name: str = "starter"
    """The base model: "starter", a folder in Hugging Face's layout, a .gguf file, "hf:OWNER/NAME" or
    "modelscope:OWNER/NAME"."""
    engine: Literal["auto", "torch", "mlx"] = "auto"
    """What computes: "auto" takes mlx on Apple silicon, torch elsewhere."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Type of the base weights; "auto" takes the one this machine multiplies fastest."""


class SplitSettings(Section):
    valid: Part = 0.1
    """Share of the rows kept out to choose the best checkpoint, or files of their own."""
    test: Part = 0.1
    """Share of the rows kept out to measure the result, or files of their own."""

    @model_validator(mode="after")
    def _something_is_left(self) -> SplitSettings:
        if sum(share for share in (self.valid, self.test) if isinstance(share, float)) >= 1:
            raise PydanticCustomError("split", "valid and test together leave no rows to train on")
        return self


class CleanSettings(Section):
    duplicates: Literal["drop", "keep"] = "drop"
    """Rows that repeat another one exactly: only the first is kept."""
    near_duplicates: Literal["report", "drop", "ignore"] = "report"
    """Rows that are almost another one; "report" only lists them, "ignore" does not look for them."""
    similarity: Annotated[float, Field(gt=0.5, le=1)] = 0.85
    """How alike two rows must be (Jaccard, of pieces of five characters) to be near-duplicates."""
    conflicts: Literal["keep", "first", "drop"] = "keep"
    """One question with different answers: keep all of them, only the first, or none."""
    boilerplate: Literal["remove", "keep"] = "remove"
    """Lines that many documents begin or end with, such as footers and badges."""
    redact: tuple[Literal["email", "phone", "secret"], ...] = ()
    """Replace these by a placeholder, in questions and answers; all of them are reported in any case."""


class DataSettings(Section):
    sources: Sources = ()
    """Files, folders, or tables such as {path = "dev.jsonl", kind = "wikisql", tables = "dev.tables.jsonl"}."""
    folder: str = ""
    """Where relative paths start; empty: the recipe's own folder."""
    split: SplitSettings = SplitSettings()
    """How rows are divided; the same row always falls on the same side."""
    system: str = ""
    """A system message for rows that have none."""
    ask: str = "{title}"
    """How a document's part is asked for; {title} is its title and the headings it stands under."""
    clean: CleanSettings = CleanSettings()
    """What is taken out before training."""
    max_tokens: Annotated[int, Field(ge=8)] = 2048
    """Documents are divided to fit; longer rows are cut, and listed in dataset/report.json."""
    seed: int = 0
    """Draws another division into train, valid and test."""
