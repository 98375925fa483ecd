"""The section `register` of params.yaml."""

from typing import Annotated, Literal

from pydantic import Field

from catalog.config import Params

Loss = Annotated[float, Field(gt=0)]


class OnlineParams(Params):
    """The rule about live traffic."""

    min_preference: float = Field(
        0.0, gt=-1, lt=1, description="the interval of the preference for the candidate must lie above this"
    )
    min_sessions: int = Field(0, ge=0, description="lowest number of sessions of the experiment")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="of the interval, which is valid at any time")


class RegisterParams(Params):
    """Rules for promotion."""

    model_name: str = "product-search"
    primary: str = Field("ndcg@10", description="the metric on which a challenger must be better")
    min_gain: float = Field(
        0.0, description="required gain over the champion, absolute; its confidence interval must lie above"
    )
    confidence: float = Field(
        0.95,
        gt=0.5,
        lt=1,
        description="of the gain: 1 - confidence is spent over all looks at the same queries",
    )
    min_queries: int = Field(
        50,
        ge=2,
        description="lowest number of independent test queries of a comparison; docs/promotion.md has its source",
    )
    margins: dict[str, Loss] = Field(
        {"recall@100": 0.03, "mrr@10": 0.03},
        description="metric → loss against the champion that fails",
    )
    baselines: dict[str, Annotated[float, Field(ge=0)]] = Field(
        {"bm25": 0.02, "hybrid": 0.02, "best_single_modality": 0.02},
        description="system → loss on the primary metric against it that fails; also without a champion",
    )
    harm_level: float = Field(
        0.05, gt=0, lt=0.5, description="one-sided level of the tests of margins, baselines and segments"
    )
    floors: dict[str, float] = Field({"ndcg@10": 0.3}, description="metric or fact → lowest value allowed")
    budgets: dict[str, float] = Field(
        {"latency_ms_p95": 200.0, "index_mb": 1000.0, "model_mb": 500.0, "validation_warnings": 5},
        description="fact → highest value allowed",
    )
    min_rating: float | None = Field(
        None, ge=1, le=5, description="lowest mean rating allowed, if a survey rated the candidate"
    )
    min_segment: int = Field(20, ge=2, description="segments with fewer queries are tested together")
    max_segment_loss: float = Field(
        0.2, gt=0, description="loss on the primary metric that no segment of 10 or more queries may exceed"
    )
    online: OnlineParams | None = Field(
        None, description="what customers must prefer in an experiment on live traffic; null for no such rule"
    )
    promote: Literal["manual", "auto"] = "manual"
    package_index: bool = Field(
        True,
        description="whether a version holds the index that it was judged with; without, it serves only with an index "
        "of python -m serving refresh",
    )
