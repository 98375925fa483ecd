"""The section `register` of params.yaml."""

from typing import Annotated, Literal

from pydantic import Field

from catalog.config import Params

Loss = Annotated[float, Field(gt=0)]


class RegisterParams(Params):
    """Rules for promotion."""

    model_name: str = "product-search"
    primary: str = Field("ndcg@10", description="the metric on which a challenger must be better")
    min_gain: float = Field(
        0.0, description="required gain over the champion, absolute; its confidence interval must lie above"
    )
    confidence: float = Field(0.95, gt=0.5, lt=1)
    margins: dict[str, Loss] = Field(
        {"recall@100": 0.02, "mrr@10": 0.02},
        description="metric → loss against the champion that fails",
    )
    floors: dict[str, float] = Field({"ndcg@10": 0.3}, description="metric or fact → lowest value allowed")
    budgets: dict[str, float] = Field(
        {"latency_ms_p95": 200.0, "index_mb": 1000.0, "model_mb": 500.0, "validation_warnings": 5},
        description="fact → highest value allowed",
    )
    min_rating: float | None = Field(
        None, ge=1, le=5, description="lowest mean rating allowed, if a survey rated the candidate"
    )
    min_segment: int = Field(20, ge=2, description="lowest number of queries of a segment that is tested")
    promote: Literal["manual", "auto"] = "manual"
