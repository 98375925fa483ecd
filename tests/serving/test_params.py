"""serving.yaml: its values, its defaults, its errors."""

from pathlib import Path

import pytest

from catalog.schema import DataError
from serving.params import ServingParams, load_serving_params

ROOT = Path(__file__).parents[2]


def test_the_file_of_the_project_has_the_defaults() -> None:
    assert load_serving_params(ROOT / "serving.yaml") == ServingParams()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("refesh: {}", "refesh: unknown key; known are refresh, service, log, experiment, monitor"),
        (
            "log: {query: hash}",
            "log.query: unknown key; known are folder, queries, flush_seconds, retention_days",
        ),
        ("refresh: {max_removed: 2}", "refresh.max_removed: Input should be less than or equal to 1, got 2"),
    ],
)
def test_an_error_names_the_key(text: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "serving.yaml").write_text(text)
    with pytest.raises(DataError, match=f"serving.yaml: {problem}"):
        load_serving_params(tmp_path / "serving.yaml")
