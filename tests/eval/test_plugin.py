"""A metric from outside the package: one new module in the folder `plugins/`."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from vitrine_judge.__main__ import main
from vitrine_judge.errors import JudgeError
from vitrine_judge.metrics import METRICS, is_metric, known_metrics, score
from vitrine_judge.rankings import Qrels, Run

import plugins

MODULE = '''
import numpy as np

from vitrine_judge.metrics import JudgedResults, metric


@metric("top1")
def top1(results: JudgedResults, k: int | None) -> np.ndarray:
    """1 where the first result is relevant, else 0."""
    return results.sum_by_query(results.is_relevant & (results.rank == 1))
'''
RUN = {"q": {"a": 2.0, "b": 1.0}, "r": {"a": 1.0, "b": 2.0}}
QRELS = {"q": {"a": 1}, "r": {"a": 1}}


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A plugin folder with a module of one metric. After the test, neither is known."""
    (tmp_path / "top1.py").write_text(MODULE)
    monkeypatch.setattr(plugins, "__path__", [*plugins.__path__, str(tmp_path)])
    yield
    sys.modules.pop("plugins.top1", None)
    vars(plugins).pop("top1", None)
    METRICS.pop("top1", None)


@pytest.mark.usefixtures("plugin")
def test_a_run_is_scored_with_a_metric_from_outside() -> None:
    scores = score(Run.from_dict(RUN), Qrels.from_dict(QRELS), ["top1", "top1@1", "mrr"])
    assert scores.means() == {"top1": 0.5, "top1@1": 0.5, "mrr": 0.75}


@pytest.mark.usefixtures("plugin")
def test_the_command_scores_with_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [tmp_path / "run.json", tmp_path / "qrels.json"]
    for path, content in zip(paths, (RUN, QRELS), strict=True):
        path.write_text(json.dumps(content))
    assert main(["score", *map(str, paths), "--metrics", "top1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["means"] == {"top1": 0.5}


@pytest.mark.usefixtures("plugin")
def test_it_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert is_metric("top1")
    assert "top1" in known_metrics()
    with pytest.raises(JudgeError, match=r"'top2' is not a metric; known are ndcg, .*top1"):
        score(Run.from_dict(RUN), Qrels.from_dict(QRELS), ["top2"])
    with pytest.raises(SystemExit):
        main(["score", "--help"])
    assert "top1" in capsys.readouterr().out


def test_without_the_plugin_it_is_unknown() -> None:
    assert not is_metric("top1")
    assert "top1" not in known_metrics()
