"""Shared by all HTML pages: templates, and the format of numbers, tables and pictures."""

import csv
import io
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Self

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

# Position, marker and type of picture formats. The marker of WebP follows the length of its RIFF container.
MAGIC = (
    (0, b"\xff\xd8\xff", "image/jpeg"),
    (0, b"\x89PNG\r\n\x1a\n", "image/png"),
    (0, b"GIF8", "image/gif"),
    (8, b"WEBP", "image/webp"),
)


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        value: For the CSV, in full precision.
        text: For the page.
        tone: A class of page.css: "good", "bad", "soft" or "best".
    """

    value: str | int | float
    text: str
    tone: str = ""

    @classmethod
    def of_text(cls, text: str, tone: str = "") -> Self:
        """A text."""
        return cls(text, text, f"text {tone}".strip())

    @classmethod
    def of_count(cls, count: int, tone: str = "soft") -> Self:
        """A whole number."""
        return cls(count, f"{count:,}", tone)

    @classmethod
    def of_number(cls, value: float, tone: str = "") -> Self:
        """A number with three decimals; a dash for NaN."""
        return cls("", "–", tone) if np.isnan(value) else cls(value, _format_number(value), tone)

    @classmethod
    def of_difference(cls, value: float, tone: str = "") -> Self:
        """A number with its sign; a dash for NaN."""
        return cls("", "–", tone) if np.isnan(value) else cls(value, _format_difference(value), tone)

    @classmethod
    def of_share(cls, value: float, tone: str = "soft") -> Self:
        """A share, as a percentage."""
        return cls(value, f"{100 * value:.1f} %", tone)


@dataclass(frozen=True)
class Table:
    """A table of a page, with a copy as CSV.

    Attributes:
        name: Its title.
        heads: The column titles; the first column names the rows.
        rows: One cell per column.
        note: An explanation for the reader.
        subject: Name of the row to emphasise.
    """

    name: str
    heads: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    subject: str | None = None

    @property
    def csv(self) -> str:
        """The table as CSV. Text that a spreadsheet would run as a formula gets a leading apostrophe."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow([_escape_formula(head) for head in self.heads])
        writer.writerows([[_escape_formula(cell.value) for cell in row] for row in self.rows])
        return stream.getvalue()


def _escape_formula(value: str | float) -> str | float:
    return (
        f"'{value}"
        if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
        else value
    )


@cache
def template_environment(*folders: Path) -> Environment:
    """The environment for templates of HTML pages, which extend base.html.jinja of this folder; it compiles each once.

    Args:
        folders: Other folders with templates.
    """
    environment = Environment(
        loader=FileSystemLoader([*folders, Path(__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=_format_number,
        signed=_format_difference,
        interval=_format_interval,
        p_value=format_p_value,
        data_uri=data_uri,
    )
    return environment


def data_uri(picture: bytes | None) -> str | None:
    """A JPEG, PNG, GIF or WebP as a data URI; None for anything else. The first bytes tell the format."""
    for start, magic, kind in MAGIC:
        if picture and picture[start : start + len(magic)] == magic:
            return f"data:{kind};base64,{b64encode(picture).decode()}"
    return None


def _format_number(value: float) -> str:
    return f"{value:.3f}"


def _format_interval(ends: tuple[float, float]) -> str:
    return "–" if np.isnan(ends).any() else f"{ends[0]:.3f} to {ends[1]:.3f}"


def _format_difference(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def format_p_value(value: float) -> str:
    """A p-value with three decimals."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
