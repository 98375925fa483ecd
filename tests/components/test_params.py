from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from catalog.schema import DataError
from components.params import (
    SECTIONS,
    EvaluateParams,
    TrainParams,
    load_pipeline_params,
    load_section,
)

ROOT = Path(__file__).parents[2]


def floats(value: Any) -> Any:
    """As KFP passes a mapping: every number is a float, every key a string."""
    if isinstance(value, dict):
        return {str(key): floats(item) for key, item in value.items()}
    if isinstance(value, list):
        return [floats(item) for item in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


@pytest.mark.parametrize("name", SECTIONS)
def test_what_kubeflow_does_to_numbers_is_undone(name: str) -> None:
    ours = load_section(ROOT / "params.yaml", name)
    passed = SECTIONS[name](**floats(load_pipeline_params(ROOT / "params.yaml")[name]))
    assert passed == ours
    assert passed.model_dump_json() == ours.model_dump_json()  # 2 and 2.0 are equal, but not the same


def test_grades_come_back_as_integers() -> None:
    assert list(EvaluateParams(gains={"0": 0.0, "3": 1.0}).gains) == [0, 3]  # type: ignore[dict-item]


def test_a_fraction_is_no_integer() -> None:
    with pytest.raises(ValidationError, match="fractional part"):
        TrainParams(epochs=2.5)  # type: ignore[arg-type]


def test_params_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        TrainParams().epochs = 3


def test_all_errors_of_a_section_are_reported_at_once(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("train: {epochs: 0, lr: 1, dropout: 2}")
    with pytest.raises(DataError) as raised:
        load_section(tmp_path / "params.yaml", "train")
    message = str(raised.value)
    assert message.startswith(f"{tmp_path / 'params.yaml'}: train.dropout: ")
    assert "train.epochs: " in message and "train.lr: unknown key; known are fusion, " in message


def test_errors_inside_a_nested_section(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("train: {tune: {image: last_0, sound: all}}")
    with pytest.raises(DataError) as raised:
        load_section(tmp_path / "params.yaml", "train")
    message = str(raised.value)
    assert "train.tune.sound: unknown key; known are text, image" in message
    assert "train.tune.image: " in message and "got 'last_0'" in message


@pytest.mark.parametrize("text", ["train:", "validate: {}"])
def test_missing_parameters_have_their_default(tmp_path: Path, text: str) -> None:
    (tmp_path / "params.yaml").write_text(text)
    assert load_section(tmp_path / "params.yaml", "train") == TrainParams()


def test_every_stage_reports_errors_of_all_sections(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("train: {epochs: 0}\nregister: {min_gain: 0.01}")
    with pytest.raises(DataError, match=r"train\.epochs: "):
        load_section(tmp_path / "params.yaml", "register")


def parameters(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield from schema["properties"].items()


def test_every_limit_is_checked(tmp_path: Path) -> None:
    """The number just outside each limit is refused."""
    tried = 0
    for section, model in SECTIONS.items():
        for name, rule in parameters(model.model_json_schema()):
            for limit, beyond in (
                ("minimum", -1),
                ("maximum", 1),
                ("exclusiveMinimum", 0),
                ("exclusiveMaximum", 0),
            ):
                if limit in rule:
                    (tmp_path / "params.yaml").write_text(
                        yaml.safe_dump({section: {name: rule[limit] + beyond}})
                    )
                    with pytest.raises(DataError, match=rf"{section}\.{name}: "):
                        load_section(tmp_path / "params.yaml", section)
                    tried += 1
    assert tried > 20
