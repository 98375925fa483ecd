"""The content of report pages: examples with explanations, frequent queries, the survey."""

import io
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from vitrine_judge.metrics import Scores
from vitrine_judge.people import Agreement, Answers, Rating, mean_ratings, measure_agreement
from vitrine_judge.rankings import Qrels, Run
from vitrine_judge.report import (
    Example,
    FrequentQuery,
    Report,
    Result,
    ResultExplanation,
    most_changed_queries,
)
from vitrine_judge.significance import PairedResult

from catalog import store
from catalog.clips import animate
from catalog.schema import GRADE_NAMES, main_picture
from fusion.featurizer import Featurizer
from fusion.model import ProductSearchModel
from fusion.search.explanations import explain, load_rows

EXAMPLES = 5  # of the queries most won, and as many of those most lost
RESULTS_PER_EXAMPLE = 8  # products
FREQUENT_QUERIES = 10
PARTS = {
    "joint": "text with pictures"
}  # of a product, where the name of the modality does not say what it is
CLIP_SIDE, CLIP_FRAMES = 132, 8  # pixels and frames of a clip on the page
Explainer = Callable[[Mapping[str, Any], Mapping[str, Any]], ResultExplanation]


def build_report(
    title: str,
    data: Path,
    subject: str,
    rivals: Sequence[str],
    runs: Mapping[str, Run],
    scores: Mapping[str, Scores],
    comparisons: Mapping[str, PairedResult],
    qrels: Qrels,
    segments: Mapping[str, np.ndarray],
    primary: str,
    explainer: Explainer | None = None,
) -> Report:
    """Build the content of a page: figures, the queries most won and lost against the first rival, and the survey.

    Args:
        title: The heading, for a page without a review.
        data: The data set.
        subject: The system under review.
        rivals: The systems that the page compares it with.
        runs: By system; of the subject and the first rival, at least.
        scores: By system.
        comparisons: Of `vitrine_judge.comparison.compare_with_others`.
        qrels: The judgements.
        segments: Ways to group queries, one of them "segment": each str (Q,), in the order of the scores.
        primary: The primary metric.
        explainer: Explains the subject's first product of an example, from the rows of the query and the product.
    """
    rival = rivals[0]
    won, lost = most_changed_queries(scores[subject], scores[rival], primary, segments["segment"], EXAMPLES)
    system_scores = {system: scores[system] for system in (subject, rival)}
    examples = _ExampleBuilder(
        data, won + lost, runs, qrels, system_scores, primary, segments["segment"], explainer
    )
    survey = read_survey(data)
    return Report(
        title=title,
        subject=subject,
        primary=primary,
        systems=scores,
        comparisons=comparisons,
        segments=segments,
        grades=GRADE_NAMES,
        rivals=rivals,
        won=[examples.build(query) for query in won],
        lost=[examples.build(query) for query in lost],
        frequent=list_frequent_queries(data, scores[subject], scores[rival], primary),
        ratings=summarise_ratings(data, survey) if survey else (),
        agreements=list(measure_agreement(survey, scores[subject], primary)) if survey else (),
    )


class _ExampleBuilder:
    """Builds the examples of a page: queries, and the results of two systems.

    Args:
        data: The data set.
        query_ids: Of all examples to build.
        runs: By system.
        qrels: The judgements.
        scores: Of both systems, the subject first.
        primary: The primary metric.
        segments: Segment of each query, in the order of the scores.
        explainer: As for `build_report`.
    """

    def __init__(
        self,
        data: Path,
        query_ids: Sequence[str],
        runs: Mapping[str, Run],
        qrels: Qrels,
        scores: Mapping[str, Scores],
        primary: str,
        segments: np.ndarray,
        explainer: Explainer | None,
    ) -> None:
        self.scores, self.primary, self.segments, self.explainer = scores, primary, segments, explainer
        self.top_products = {
            query: {system: select_top_products(runs[system], query) for system in scores}
            for query in query_ids
        }
        product_ids = {
            product
            for by_system in self.top_products.values()
            for products in by_system.values()
            for product, _ in products
        }
        self.products = load_rows(data, "products", product_ids)
        self.queries = load_rows(data, "queries", set(query_ids))
        self.grades = qrels.to_dict()
        self.clip = cache(lambda product: animate_clip(self.products[product]))

    def build(self, query: str) -> Example:
        """Build the example of a query."""
        subject = next(iter(self.scores))
        position = np.searchsorted(self.scores[subject].query_ids, query)
        values = {
            system: float(scores.values[self.primary][position]) for system, scores in self.scores.items()
        }
        row, top_products = self.queries[query], self.top_products[query]
        lists = {
            system: [self._build_result(query, product, score) for product, score in products]
            for system, products in top_products.items()
        }
        explanation = None
        if self.explainer and top_products[subject]:
            best, _ = top_products[subject][0]
            explanation = self.explainer(row, self.products[best])
        segment = str(self.segments[position])
        return Example(query, lists, values, row["text"], main_picture(row), segment, explanation)

    def _build_result(self, query: str, product: str, score: float) -> Result:
        row = self.products[product]
        grade = self.grades[query].get(product)
        return Result(row["title"], score, grade, main_picture(row), self.clip(product))


def list_frequent_queries(data: Path, subject: Scores, rival: Scores, metric: str) -> list[FrequentQuery]:
    """List the most frequent judged queries with a metric of both systems; none where no frequency is known."""
    frequencies = read_frequencies(data, subject.query_ids)
    positions = np.argsort(-frequencies, kind="stable")[:FREQUENT_QUERIES]
    positions = positions[frequencies[positions] > 0]
    query_ids = subject.query_ids[positions].tolist()
    queries = load_rows(data, "queries", query_ids)
    return [
        FrequentQuery(
            queries[query]["text"] or "a picture",
            int(frequencies[position]),
            float(subject.values[metric][position]),
            float(rival.values[metric][position]),
        )
        for query, position in zip(query_ids, positions.tolist(), strict=True)
    ]


def read_frequencies(data: Path, query_ids: np.ndarray) -> np.ndarray:
    """Read the frequency of each query: int64 (Q,), 0 where it is unknown."""
    table = store.read_table(data, "queries", ["query_id", "frequency"])
    rows = pc.index_in(pa.array(query_ids, pa.string()), table["query_id"].combine_chunks())
    return pc.fill_null(table["frequency"].take(rows), 0).to_numpy()


def read_survey(data: Path) -> Answers | None:
    """Read the survey, if the data set has one."""
    table = store.read_table(data, "satisfaction", ["query_id", "model_version", "rating"])
    return Answers(*(table[name].to_numpy() for name in table.column_names)) if len(table) else None


def summarise_ratings(data: Path, survey: Answers) -> list[Rating]:
    """Average the ratings of each model, over all queries and by segment."""
    queries = store.read_table(data, "queries", ["query_id", "segment"]).to_pydict()
    segments = dict(zip(queries["query_id"], queries["segment"], strict=True))
    return list(mean_ratings(survey, {query: segment for query, segment in segments.items() if segment}))


def summarise_survey(page_ratings: Sequence[Rating], agreements: Sequence[Agreement]) -> dict[str, float]:
    """Collect survey metrics for the gate: rating/MODEL over all queries; agreement/MODEL where it is defined."""
    rated = {
        f"rating/{rating.model}": rating.segment.mean
        for rating in page_ratings
        if rating.segment.name == "all"
    }
    defined = [agreement for agreement in agreements if not np.isnan(agreement.tau)]
    return rated | {f"agreement/{agreement.model}": agreement.tau for agreement in defined}


def select_top_products(run: Run, query: str) -> list[tuple[str, float]]:
    """Select the first products of a query and their scores; none where the run does not answer it."""
    rows = run.pairs_of(query)
    product_ids, scores = run.product_ids[rows].tolist(), run.values[rows].tolist()
    return list(zip(product_ids, scores, strict=True))[:RESULTS_PER_EXAMPLE]


def read_attribute_values(data: Path) -> set[str]:
    """Read every value of brand, colour, material, category and other attributes of the products, in lower case."""
    table = store.read_table(data, "products", ["brand", "color", "material", "category", "attributes"])
    values: set[str] = set()
    for name in ("brand", "color", "material", "category"):
        values |= {value for value in pc.unique(table[name]).to_pylist() if value}
    for chunk in table["attributes"].chunks:
        values |= {value for value in pc.unique(chunk.items).to_pylist() if value}
    return {part.strip().casefold() for value in values for part in value.split("/")}


def explain_result(
    network: ProductSearchModel,
    featurizer: Featurizer,
    known_values: Collection[str],
    query: Mapping[str, Any],
    product: Mapping[str, Any],
) -> ResultExplanation:
    """Explain a result for the page, with `fusion.search.explanations.explain`.

    Leaves out attributes whose value in the query is not in `known_values`: the model took another word for one.
    """
    explanation, png = explain(network, featurizer, query, product), io.BytesIO()
    overlay = explanation.overlay()
    if overlay:
        overlay.save(png, "PNG")
    entities = {
        name: values for name, values in explanation.entities.items() if values[0].casefold() in known_values
    }
    return ResultExplanation(
        {PARTS.get(name, name): loss for name, loss in explanation.modality_losses.items()},
        explanation.query_losses,
        explanation.product_losses,
        entities,
        png.getvalue() or None,
        explanation.score,
    )


def animate_clip(row: Mapping[str, Any]) -> bytes | None:
    """Turn the clip of a row into a small animated picture; None for no clip."""
    frames = [frame["bytes"] for frame in row["video"] or [] if frame["bytes"]]
    return animate(frames, CLIP_SIDE, CLIP_FRAMES) if len(frames) > 1 else None
