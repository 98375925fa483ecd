"""The section `evaluate` of params.yaml."""

from typing import Literal

from pydantic import Field
from vitrine_judge.configuration import MetricConfiguration

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
    collapse: Literal["group_id"] | None = Field(
        None, description="group_id to count the variants of a product as one result, the best one"
    )
    holdout: float = Field(
        0.3,
        ge=0,
        le=0.9,
        description="share of the test queries that only the gate scores, and only for a candidate that passes",
    )
    milvus: bool = Field(
        False, description="evaluate the served system through Milvus, too: the system `milvus`"
    )

    @property
    def configuration(self) -> MetricConfiguration:
        """The metrics and how they read grades; the judge's command reads it from a file beside the judgements."""
        return MetricConfiguration(tuple(self.metrics), self.gains, self.relevant)
