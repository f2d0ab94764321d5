"""The query of a request whose body is a file."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from abonyx.domain import Check
from abonyx.input.sequences import Gaps
from abonyx.serve.answers import OnInvalid, Trim


class FileQuery(BaseModel):
    """The options of a file's request; JSON has them in its body."""

    model_config = ConfigDict(extra="forbid")

    on_invalid: OnInvalid = "fail"
    domain: Check = "check"
    trim: Trim | None = None
    gaps: Gaps = "refuse"
    id_column: str | None = None
    sequence_column: str | None = None
    heavy_column: str | None = None
    light_column: str | None = None

    def asked(self) -> dict[str, Any]:
        """The options as a JSON request has them, without its sequences."""
        return self.model_dump(exclude={"id_column", "sequence_column", "heavy_column", "light_column", "labels"})

    @property
    def finds_labels(self) -> bool:
        """Whether a column of labels is looked for."""
        return False


class FileExplainQuery(FileQuery):
    """The options of FileQuery, and `heads`: names with commas between them, or `all`."""

    heads: str | None = None

    def asked(self) -> dict[str, Any]:
        """As FileQuery.asked, with `heads`."""
        return super().asked() | {"heads": _names(self.heads)}


class FileScoreQuery(FileExplainQuery):
    """The options of FileExplainQuery, and `assay`, `threshold`, `panel`, `with` and `labels`.

    with: names of columns with commas between them.
    labels: find = read the classes in a column called label, labels, y or class, and return them.
    """

    assay: str | None = None
    threshold: float | None = None
    panel: str | None = None
    with_columns: str | None = Field(None, alias="with")
    labels: Literal["find", "off"] = "off"

    def asked(self) -> dict[str, Any]:
        """As FileExplainQuery.asked, with `with_columns`."""
        return super().asked() | {"with_columns": _names(self.with_columns)}

    @property
    def finds_labels(self) -> bool:
        """Whether a column of labels is looked for."""
        return self.labels == "find"


def _names(text: str | None) -> list[str] | None:
    """The names in a text with commas between them; None if there is no text."""
    return None if text is None else [name.strip() for name in text.split(",")]
