"""A hook of MkDocs: writes the tables of parameters into reference/parameters.md, from `components.params.SECTIONS`."""

import json
import typing
from types import NoneType, UnionType
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from components.params import SECTIONS

MARKER = "<!-- parameters -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """MkDocs calls this for each page; only a page with the marker changes."""
    return markdown.replace(MARKER, write_sections()) if MARKER in markdown else markdown


def write_sections() -> str:
    """A heading and a table for each section of params.yaml, in Markdown."""
    parts = []
    for name, model in SECTIONS.items():
        table = ["| name | type | default | description |", "|---|---|---|---|", *list_rows(model)]
        parts.append(f"## {name}\n\n{model.__doc__}\n\n" + "\n".join(table))
    return "\n\n".join(parts)


def list_rows(model: type[BaseModel], prefix: str = "") -> list[str]:
    """A row of the table for each field; the fields of a nested model follow as `field.name`."""
    rows = []
    for name, field in model.model_fields.items():
        nested, optional = find_model(field.annotation)
        if nested and not optional:
            rows += list_rows(nested, f"{prefix}{name}.")
            continue
        cells = (f"`{prefix}{name}`", describe_type(field), describe_default(field), field.description or "")
        rows.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
        if nested:
            rows += list_rows(nested, f"{prefix}{name}.")
    return rows


def find_model(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """The nested model of a field, if it has one, and whether null may stand in its place."""
    types = typing.get_args(annotation) or (annotation,)
    models = [each for each in types if isinstance(each, type) and issubclass(each, BaseModel)]
    return (models[0] if models else None), NoneType in types


def describe_type(field: FieldInfo) -> str:
    """The type in words, with the limits of its values."""
    limits = [
        f"{sign} {value:g}"
        for constraint in field.metadata
        for name, sign in (
            ("ge", "≥"),
            ("gt", ">"),
            ("le", "≤"),
            ("lt", "<"),
            ("multiple_of", "a multiple of"),
        )
        if (value := getattr(constraint, name, None)) is not None
    ]
    return ", ".join([name_type(field.annotation), *limits])


def name_type(annotation: Any) -> str:
    """The name of a type annotation, such as `list of str`, `str or null` or one of several words."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return name_type(arguments[0])
    if origin is typing.Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin in (typing.Union, UnionType):
        return " or ".join(map(name_type, arguments))
    if origin is list:
        return f"list of {name_type(arguments[0])}"
    if origin is dict:
        return f"map of {name_type(arguments[0])} to {name_type(arguments[1])}"
    names = {NoneType: "null"} | ({annotation: "map"} if issubclass(annotation, BaseModel) else {})
    return names.get(annotation, annotation.__name__)


def describe_default(field: FieldInfo) -> str:
    """The default as params.yaml would write it."""
    value = field.get_default(call_default_factory=True)
    return "required" if value is PydanticUndefined else f"`{json.dumps(value)}`"
