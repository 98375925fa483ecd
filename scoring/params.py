"""The section `evaluate` of params.yaml."""

from pydantic import Field

from catalog.config import Params
from catalog.schema import EXACT, GAINS


class EvaluateParams(Params):
    """How rankings are judged."""

    metrics: list[str] = Field(
        [
            "ndcg@10",
            "recall@10",
            "recall@100",
            "mrr@10",
            "hit@10",
            "precision@10",
            "judged@10",
        ]
    )
    gains: dict[int, float] = Field(GAINS, description="NDCG gain of each grade; the default is ESCI's")
    relevant: int = Field(
        EXACT, ge=1, description="lowest grade that counts as relevant for recall, MRR, hit and precision"
    )
    depth: int = Field(100, ge=1, description="products ranked per query and system")
    resamples: int = Field(10_000, ge=100, description="for paired tests and intervals")
    seed: int = 0
