"""What changes the fingerprint of the judge, and what does not."""

import ast
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import FunctionType

import numpy as np
import pytest
import vitrine_judge
from vitrine_judge.errors import JudgeError
from vitrine_judge.fingerprint import fingerprint, scoring_modules
from vitrine_judge.metrics import METRICS, JudgedResults, metric

PACKAGE = Path(vitrine_judge.__file__).parent
METRIC_NAMES = ("ndcg@10", "mrr@10")


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Register a metric of this module until the end of the test."""

    def register(name: str) -> None:
        monkeypatch.setitem(METRICS, name, METRICS["hit"])
        metric(name)(first_gain)

    return register


def first_gain(results: JudgedResults, k: int | None) -> np.ndarray:
    return results.sum_by_query(results.gain * (results.rank == 1))


def compute_in(folder: Path) -> str:
    """The fingerprint of the copy of the judge in a folder."""
    code = f"from vitrine_judge.fingerprint import fingerprint; print(fingerprint({METRIC_NAMES}))"
    words = [sys.executable, "-c", code]
    environment = {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A folder with a copy of the judge's code."""
    (tmp_path / "vitrine_judge").mkdir()
    for path in PACKAGE.glob("*.py"):
        (tmp_path / "vitrine_judge" / path.name).write_bytes(path.read_bytes())
    return tmp_path


def test_a_copy_of_the_judge_has_its_fingerprint(copy: Path) -> None:
    assert compute_in(copy) == fingerprint(METRIC_NAMES) == fingerprint(METRIC_NAMES[::-1])


@pytest.mark.parametrize(("module", "counts"), [("metrics", True), ("arrays", True), ("plots", False)])
def test_an_edit_of_code_that_scores_counts(copy: Path, module: str, counts: bool) -> None:
    path = copy / "vitrine_judge" / f"{module}.py"
    path.write_text(path.read_text() + "\nEDITED = True\n")
    assert (compute_in(copy) != fingerprint(METRIC_NAMES)) == counts


def test_all_modules_that_metrics_imports_are_read() -> None:
    """As Python loads them, and those that functions import."""
    code = "import sys, vitrine_judge.metrics; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    loaded = {name.removeprefix("vitrine_judge.") for name in modules.split() if "vitrine_judge." in name}
    assert loaded <= set(scoring_modules())
    assert {"metrics", "rankings", "arrays"} <= loaded
    assert not {"gate", "report", "significance"} & set(scoring_modules())
    for name in scoring_modules():
        ast.parse((PACKAGE / f"{name}.py").read_bytes())


def test_a_metric_of_another_package_counts_where_it_is_used(registered: Callable[[str], None]) -> None:
    before = fingerprint(["ndcg@10"])
    registered("first-gain")
    assert fingerprint(["ndcg@10"]) == before != fingerprint(["ndcg@10", "first-gain@10"])


def test_a_replaced_metric_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint(METRIC_NAMES)
    monkeypatch.setitem(METRICS, "ndcg", METRICS["ndcg"])
    metric("ndcg")(first_gain)
    assert fingerprint(METRIC_NAMES) != before == fingerprint(["mrr@10"])


def test_a_metric_without_source_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METRICS, "typed", METRICS["hit"])
    code = first_gain.__code__.replace(co_filename="<stdin>")  # as at a prompt
    metric("typed")(FunctionType(code, {"__name__": "__main__"}))
    with pytest.raises(JudgeError, match="metric 'typed@5': the source of __main__ cannot be read"):
        fingerprint(["typed@5"])


def test_an_unknown_metric_is_refused() -> None:
    with pytest.raises(JudgeError, match="'nope@3' is not a metric"):
        fingerprint(["nope@3"])
