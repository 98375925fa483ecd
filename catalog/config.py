"""Reads YAML settings, checks them with pydantic models, and reports all problems in one message."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from catalog.schema import DataError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

Share = Annotated[float, Field(ge=0, le=1)]
P = TypeVar("P", bound="Params")


class Params(BaseModel):
    """Base of a section of settings: frozen; rejects unknown keys, NaN and infinity."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file of keys and values; an empty file gives an empty dict.

    Raises:
        DataError: if it cannot be read or has other content.
    """
    try:
        content = yaml.safe_load(path.read_text()) or {}
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise DataError(f"{path}: not YAML ({error})") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected keys and values, got a {type(content).__name__}")
    return content


def validate_values(model: type[P], content: Mapping[str, Any], path: Path, *keys: str) -> P:
    """Validate the content of a file.

    Args:
        model: The expected keys, types and ranges.
        content: The values.
        path: The file, for the message.
        keys: The keys above the values in the file, for the message.

    Raises:
        DataError: if a key is unknown or a value invalid; the message lists all problems.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise DataError(f"{path}: {'; '.join(list_problems(model, error, *keys))}") from error


def validate_sections(
    models: Mapping[str, type[Params]], content: Mapping[str, Any], path: Path
) -> dict[str, Params]:
    """Validate the sections of a file; the result has the order of the models.

    Args:
        models: Section → its expected keys, types and ranges.
        content: Section → its values; a missing or empty section gets the defaults.
        path: The file, for the message.

    Raises:
        DataError: if a section or key is unknown or a value invalid; the message lists all problems.
    """
    sections: dict[str, Params] = {}
    problems = [
        f"{name}: unknown section; known are {', '.join(models)}" for name in content if name not in models
    ]
    for name, model in models.items():
        values = content.get(name)
        try:
            sections[name] = model.model_validate({} if values is None else values)
        except ValidationError as error:
            problems += list_problems(model, error, name)
    if problems:
        raise DataError(f"{path}: {'; '.join(problems)}")
    return sections


def list_problems(model: type[Params], error: ValidationError, *keys: str) -> list[str]:
    """Format each problem that pydantic reports as one line; `keys` are the keys above the model."""
    return [
        f"{'.'.join(map(str, (*keys, *problem['loc'])))}: {_format_reason(model, problem)}"
        for problem in error.errors()
    ]


def _nested_model(annotation: Any) -> type[Params] | None:
    """Extract the model from an annotation such as `dict[str, Model]`."""
    if isinstance(annotation, type) and issubclass(annotation, Params):
        return annotation
    return next((model for part in get_args(annotation) if (model := _nested_model(part))), None)


def _format_reason(model: type[Params], error: "ErrorDetails") -> str:
    if error["type"] == "extra_forbidden":
        for key in error["loc"][:-1]:
            if key in model.model_fields:
                model = _nested_model(model.model_fields[str(key)].annotation) or model
        return f"unknown key; known are {', '.join(model.model_fields)}"
    if error["type"] == "value_error":
        return error["msg"].removeprefix("Value error, ")
    return f"{error['msg']}, got {error['input']!r}"
