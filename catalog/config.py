"""Files of settings: YAML that a pydantic model checks, with every fault in one message."""

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
    """A section: frozen, and strict about unknown keys and numbers that are none."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file of keys and values; an empty file has none.

    Raises:
        DataError: where it cannot be read, or holds something else.
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


def validate_values(model: type[P], content: Mapping[str, Any], path: Path, *at: str) -> P:
    """The content of a file as its model; the message lists every problem.

    Args:
        model: What is expected.
        content: The values.
        path: The file that holds them.
        at: The keys above them in the file.

    Raises:
        DataError: where a key is unknown or a value out of range.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise DataError(f"{path}: {'; '.join(list_problems(model, error, *at))}") from error


def validate_sections(
    models: Mapping[str, type[Params]], content: Mapping[str, Any], path: Path
) -> dict[str, Params]:
    """The sections of a file, each as its model, in the order of the models; the message lists every problem.

    Args:
        models: What is expected, by section.
        content: The values, by section; a section that is absent or empty has the defaults.
        path: The file that holds them.

    Raises:
        DataError: where a section or a key is unknown or a value out of range.
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


def list_problems(model: type[Params], error: ValidationError, *at: str) -> list[str]:
    """A line for each problem that pydantic reports; `at` are the keys above the model."""
    return [f"{'.'.join(map(str, (*at, *e['loc'])))}: {_reason(model, e)}" for e in error.errors()]


def _nested_model(annotation: Any) -> type[Params] | None:
    """The model that an annotation names, such as that of `dict[str, Model]`."""
    if isinstance(annotation, type) and issubclass(annotation, Params):
        return annotation
    return next((model for part in get_args(annotation) if (model := _nested_model(part))), None)


def _reason(model: type[Params], error: "ErrorDetails") -> str:
    if error["type"] == "extra_forbidden":
        for key in error["loc"][:-1]:
            if key in model.model_fields:
                model = _nested_model(model.model_fields[str(key)].annotation) or model
        return f"unknown key; known are {', '.join(model.model_fields)}"
    if error["type"] == "value_error":
        return error["msg"].removeprefix("Value error, ")
    return f"{error['msg']}, got {error['input']!r}"
