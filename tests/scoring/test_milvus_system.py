"""The served system through Milvus is judged as one more system."""

import json
from pathlib import Path

import numpy as np
import pytest
from vitrine_judge.metrics import Scores
from vitrine_judge.rankings import Run

from components.evaluate import evaluate
from components.params import EvaluateParams
from scoring.systems import BM25, CANDIDATE, HYBRID, MILVUS, choose_rivals


@pytest.mark.slow
def test_milvus_ranks_as_the_served_system(
    data: Path, features: Path, model: Path, index: Path, tmp_path: Path
) -> None:
    params = EvaluateParams(milvus=True)
    evaluate(data, features, model, index, params, tmp_path / "evaluation")
    served, through_milvus = (
        Run.from_parquet(tmp_path / "evaluation" / "runs" / f"{system}.parquet").to_dict()
        for system in (HYBRID, MILVUS)
    )
    assert list(through_milvus) == list(served)
    for query, ranking in served.items():
        assert list(through_milvus[query]) == list(ranking)
        assert through_milvus[query] == pytest.approx(ranking, abs=1e-5)
    means = json.loads((tmp_path / "evaluation" / "metrics.json").read_text())
    assert means[MILVUS] == pytest.approx(means[HYBRID], abs=1e-6)


def test_milvus_is_no_rival_of_the_system_that_it_searches() -> None:
    means = {MILVUS: 0.9, HYBRID: 0.9, CANDIDATE: 0.8, "image-only": 0.5, BM25: 0.2}
    scores = {
        system: Scores(np.array(["q"]), np.array([True]), {"ndcg@10": np.array([mean])})
        for system, mean in means.items()
    }
    assert choose_rivals(scores, "ndcg@10") == ["image-only", BM25]
