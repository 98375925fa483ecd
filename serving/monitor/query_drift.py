"""Drift of queries between two samples of the log, by the same index as that of products in `validate`."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from catalog.languages import choose_language, find_languages
from registry import champion_process
from serving.monitor.aggregation import LANGUAGE
from serving.monitor.histograms import LEVEL, Estimate
from validation.drift import (
    EMBEDDINGS,
    NONE,
    Drift,
    compare_counts,
    count_by_decile,
    count_categories,
    count_classifier_scores,
)

RESAMPLES = 1000
LENGTHS, LANGUAGES, UNKNOWN_TOKENS = "lengths", "languages", "unknown tokens"


@dataclass(frozen=True)
class QueryDrift:
    """The drift of a property of queries.

    Attributes:
        drift: From the reference period.
        index: With its interval.
        searches: The smaller of the two numbers of searches that are compared.
    """

    drift: Drift
    index: Estimate
    searches: int


def measure_query_drift(
    reference: pa.Table, current: pa.Table, vectors: tuple[pa.Table, pa.Table] | None
) -> list[QueryDrift]:
    """Measure the drift of lengths, languages, unknown tokens and embeddings, of searches with a text.

    Languages and embeddings need texts, and are left out where all are withheld.

    Args:
        reference, current: `serving.monitor.aggregation.SAMPLE` with the column language.
        vectors: Of `embed_samples`; None where there is no champion.
    """
    tables = [sample.filter(pc.is_valid(sample["characters"])) for sample in (reference, current)]
    sizes = [len(table) for table in tables]
    if not all(sizes):
        return []
    drifts = []
    for name, column in ((LENGTHS, "characters"), (UNKNOWN_TOKENS, "unknown_tokens")):
        before, after = (table[column].cast(pa.float64()).to_numpy() for table in tables)
        drifts.append(_with_interval(compare_counts(name, count_by_decile(before, after)), sizes))
    languages = [table[LANGUAGE].drop_null().to_pylist() for table in tables]
    if all(languages):
        histogram = count_categories(*languages)
        drifts.append(_with_interval(compare_counts(LANGUAGES, histogram), [len(part) for part in languages]))
    if vectors is not None and all(len(part) for part in vectors):
        # searches are drawn one by one, also those of equal texts: each is a group
        histogram = count_classifier_scores(*vectors, key="request_id")
        drifts.append(_with_interval(compare_counts(EMBEDDINGS, histogram), [len(part) for part in vectors]))
    return drifts


def _with_interval(drift: Drift, sizes: Sequence[int]) -> QueryDrift:
    """The interval of an index: by the basic bootstrap, which corrects that chance only ever adds to it."""
    rng = np.random.default_rng(0)
    counts = [
        rng.multinomial(size, shares, RESAMPLES) + 0.5
        for size, shares in zip(sizes, (drift.reference, drift.current), strict=True)
    ]
    before, after = (part / part.sum(axis=1, keepdims=True) for part in counts)
    indices = np.sum((after - before) * np.log(after / before), axis=1)
    low, high = np.quantile(indices, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2])
    low, high = 2 * drift.index - high, 2 * drift.index - low
    estimate = Estimate(drift.index, max(0.0, float(low)), max(drift.index, float(high)))
    return QueryDrift(drift, estimate, min(sizes))


def add_languages(reference: pa.Table, current: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Add the column language: of each text, among the languages of both samples; null without a text."""
    texts = [sample["text"].to_pylist() for sample in (reference, current)]
    shares = find_languages([text for part in texts for text in part if text]) or {NONE: 1.0}
    choose = cache(lambda text: choose_language(text, shares))
    first, second = (
        sample.append_column(
            LANGUAGE, pa.array([choose(text) if text else None for text in part], pa.string())
        )
        for sample, part in zip((reference, current), texts, strict=True)
    )
    return first, second


def embed_samples(package: Path, reference: pa.Table, current: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Embed the texts of both samples with a registered model, by the code it was registered with.

    Args:
        package: Of `registry.champion_process.download_model`.
        reference, current: Columns request_id and text; rows without a text are left out.

    Returns:
        For each sample, columns request_id and vector.
    """
    samples = [sample.filter(pc.is_valid(sample["text"])) for sample in (reference, current)]
    texts = pc.unique(
        pa.chunked_array([chunk for sample in samples for chunk in sample["text"].chunks], pa.string())
    )
    with tempfile.TemporaryDirectory() as name:
        queries, vectors = Path(name) / "queries.parquet", Path(name) / "vectors.parquet"
        ids = pa.array(map(str, range(len(texts))), pa.string())
        pq.write_table(pa.table({"query_id": ids, "text": texts}), queries)
        champion_process.run_in_own_environment(package, "embed-texts", queries=queries, vectors=vectors)
        embedded = pq.read_table(vectors)["vector"].combine_chunks()
    first, second = (_vectors_of(sample, texts, embedded) for sample in samples)
    return first, second


def _vectors_of(sample: pa.Table, texts: pa.Array, vectors: pa.Array) -> pa.Table:
    places = pc.index_in(sample["text"].combine_chunks(), value_set=texts)
    return pa.table({"request_id": sample["request_id"], "vector": vectors.take(places)})
