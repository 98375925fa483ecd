"""What the pages show beside the figures: examples and their explanations, frequent queries, the survey."""

import io
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catalog import store
from catalog.clips import animate
from catalog.schema import GRADE_NAMES
from eval.metrics import Scores
from eval.people import Agreement, Answers, Rating, agreement, ratings
from eval.rankings import Qrels, Run
from eval.report import Example, FrequentQuery, Report, Result, Why, extremes
from eval.significance import PairedResult, paired_test
from fusion.featurizer import Featurizer
from fusion.model import ProductSearchModel
from fusion.search.explanations import explain, rows

EXAMPLES = 5  # queries most won, and most lost
SHOWN = 8  # products of each
FREQUENT = 10  # queries
CLIP_SIDE, CLIP_FRAMES = 132, 8  # pixels and frames of a clip that is shown
Explainer = Callable[[Mapping[str, Any], Mapping[str, Any]], Why]


def compare_systems(
    scores: Mapping[str, Scores], subject: str, metric: str, resamples: int, seed: int
) -> dict[str, PairedResult]:
    """The subject minus every other system, by name."""
    values = scores[subject].values[metric]
    return {
        system: paired_test(values, other.values[metric], resamples, seed)
        for system, other in scores.items()
        if system != subject
    }


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
    """The content of a page: figures, the queries most won and lost against the first rival, and what people say.

    Args:
        title: Of a page without a review.
        data: The data set.
        subject: The system under review.
        rivals: The systems it is shown against.
        runs: Of the subject and the first rival, at least.
        scores: By system.
        comparisons: Of `compare_systems`.
        qrels: The judgements.
        segments: Ways to group queries, one of them "segment": each str (Q,), in the order of the scores.
        primary: The deciding metric.
        explainer: Explains the subject's first product of an example, from the rows of the query and the product.
    """
    rival = rivals[0]
    won, lost = extremes(scores[subject], scores[rival], primary, segments["segment"], EXAMPLES)
    examples = _Examples(data, subject, rival, runs, qrels, won + lost, explainer)
    survey = read_answers(data)

    def make_examples(query_ids: Sequence[str]) -> list[Example]:
        places = np.searchsorted(scores[subject].query_ids, query_ids)
        return [
            examples.make(
                query,
                str(segments["segment"][place]),
                {name: float(scores[name].values[primary][place]) for name in (subject, rival)},
            )
            for query, place in zip(query_ids, places.tolist(), strict=True)
        ]

    return Report(
        title=title,
        subject=subject,
        primary=primary,
        systems=scores,
        comparisons=comparisons,
        segments=segments,
        grades=GRADE_NAMES,
        rivals=rivals,
        won=make_examples(won),
        lost=make_examples(lost),
        frequent=frequent_queries(data, scores[subject], scores[rival], primary),
        ratings=rate_models(data, survey) if survey else (),
        agreements=list(agreement(survey, scores[subject], primary)) if survey else (),
    )


class _Examples:
    """Makes the examples of a page: queries, and what two systems answer.

    Args:
        data: The data set.
        subject, rival: The systems, in the order shown.
        runs: Of both.
        qrels: The judgements.
        query_ids: Of all examples that will be made.
        explainer: As for `build_report`.
    """

    def __init__(
        self,
        data: Path,
        subject: str,
        rival: str,
        runs: Mapping[str, Run],
        qrels: Qrels,
        query_ids: Sequence[str],
        explainer: Explainer | None,
    ) -> None:
        self.subject, self.explainer = subject, explainer
        self.lists = {
            query: {name: first_products(runs[name], query) for name in (subject, rival)}
            for query in query_ids
        }
        shown = {product for lists in self.lists.values() for first in lists.values() for product, _ in first}
        self.products, self.queries = rows(data, "products", shown), rows(data, "queries", set(query_ids))
        self.grades = qrels.to_dict()
        self.clip = cache(lambda product: clip_of(self.products[product]))

    def make(self, query: str, segment: str, values: Mapping[str, float]) -> Example:
        """The example of a query; `values` are the primary metric of both systems."""
        row = self.queries[query]
        lists = {
            name: [self._result(query, *product) for product in first]
            for name, first in self.lists[query].items()
        }
        first = self.lists[query][self.subject]
        why = self.explainer(row, self.products[first[0][0]]) if self.explainer and first else None
        return Example(query, lists, values, row["text"], picture_of(row), segment, why)

    def _result(self, query: str, product: str, score: float) -> Result:
        row = self.products[product]
        grade = self.grades[query].get(product)
        return Result(row["title"], score, grade, picture_of(row), self.clip(product))


def frequent_queries(data: Path, subject: Scores, rival: Scores, metric: str) -> list[FrequentQuery]:
    """The most frequent of the judged queries, and a metric of both systems; none where no frequency is known."""
    frequencies = read_frequencies(data, subject.query_ids)
    places = np.argsort(-frequencies, kind="stable")[:FREQUENT]
    places = places[frequencies[places] > 0]
    query_ids = subject.query_ids[places].tolist()
    queries = rows(data, "queries", query_ids)
    return [
        FrequentQuery(
            queries[query]["text"] or "a picture",
            int(frequencies[place]),
            float(subject.values[metric][place]),
            float(rival.values[metric][place]),
        )
        for query, place in zip(query_ids, places.tolist(), strict=True)
    ]


def read_frequencies(data: Path, query_ids: np.ndarray) -> np.ndarray:
    """How often each query was asked, int64 (Q,); 0 where that is unknown."""
    table = store.read(data, "queries", ["query_id", "frequency"])
    places = pc.index_in(pa.array(query_ids, pa.string()), table["query_id"].combine_chunks())
    return pc.fill_null(table["frequency"].take(places), 0).to_numpy()


def read_answers(data: Path) -> Answers | None:
    """The survey, where the data set has one."""
    table = store.read(data, "satisfaction", ["query_id", "model_version", "rating"])
    return Answers(*(table[name].to_numpy() for name in table.column_names)) if len(table) else None


def rate_models(data: Path, survey: Answers) -> list[Rating]:
    """How people rated each model, over all queries and by segment."""
    named = zip(*store.read(data, "queries", ["query_id", "segment"]).to_pydict().values(), strict=True)
    return list(ratings(survey, {query: segment for query, segment in named if segment}))


def survey_facts(page_ratings: Sequence[Rating], agreements: Sequence[Agreement]) -> dict[str, float]:
    """What people say, as facts for the gate: rating/MODEL over all queries; agreement/MODEL where it is defined."""
    rated = {
        f"rating/{rating.model}": rating.segment.mean
        for rating in page_ratings
        if rating.segment.name == "all"
    }
    defined = [agreement for agreement in agreements if not np.isnan(agreement.tau)]
    return rated | {f"agreement/{agreement.model}": agreement.tau for agreement in defined}


def first_products(run: Run, query: str) -> list[tuple[str, float]]:
    """The first products of a query and their scores; none where the run does not answer it."""
    place = run.of(query)
    items, values = run.item_ids[place].tolist(), run.values[place].tolist()
    return list(zip(items, values, strict=True))[:SHOWN]


def read_attribute_values(data: Path) -> set[str]:
    """Every value of brand, colour, material, category and other attributes that a product has, in lower case."""
    table = store.read(data, "products", ["brand", "color", "material", "category", "attributes"])
    values: set[str] = set()
    for name in ("brand", "color", "material", "category"):
        values |= {value for value in pc.unique(table[name]).to_pylist() if value}
    for chunk in table["attributes"].chunks:
        values |= {value for value in pc.unique(chunk.items).to_pylist() if value}
    return {part.strip().casefold() for value in values for part in value.split("/")}


def explain_result(
    network: ProductSearchModel,
    reader: Featurizer,
    known_values: Collection[str],
    query: Mapping[str, Any],
    product: Mapping[str, Any],
) -> Why:
    """What `fusion.search.explanations.explain` says of a result, for the page.

    Attributes whose value in the query is none of `known_values` are left out: the model took another word for one.
    """
    explanation, png = explain(network, reader, query, product), io.BytesIO()
    overlay = explanation.overlay()
    if overlay:
        overlay.save(png, "PNG")
    entities = {
        name: values for name, values in explanation.entities.items() if values[0].casefold() in known_values
    }
    return Why(
        explanation.modalities, explanation.query, explanation.product, entities, png.getvalue() or None
    )


def picture_of(row: Mapping[str, Any]) -> bytes | None:
    """The picture of a row, as it is stored."""
    return row["image"] and row["image"]["bytes"]


def clip_of(row: Mapping[str, Any]) -> bytes | None:
    """The clip of a row as a small animated picture; None for no clip."""
    frames = [frame["bytes"] for frame in row["video"] or [] if frame["bytes"]]
    return animate(frames, CLIP_SIDE, CLIP_FRAMES) if len(frames) > 1 else None
