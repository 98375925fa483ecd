"""Auxiliary tasks of the model, each with its metrics: title-picture retrieval, similar products, tags, entities."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from vitrine_judge.metrics import score
from vitrine_judge.rankings import Qrels, Run
from vitrine_judge.report import Measure

from catalog import store
from catalog.schema import EXACT
from fusion.encoders.vocabulary import Vocabulary
from fusion.entities import Entities, f1, spans
from fusion.facets import Facets
from fusion.features import Items
from fusion.model import ProductSearchModel, embed
from fusion.search.catalogue_search import build_run_table
from fusion.search.vector_index import top_k

MAX_RETRIEVAL_PRODUCTS = 1000  # held-out products to retrieve titles and pictures from
RETRIEVAL_METRICS = ("recall@1", "recall@5", "recall@10", "mrr@100")
SIMILARITY_METRICS = ("ndcg@10", "recall@10", "mrr@10")
SEED = 0


def evaluate_auxiliary_tasks(
    data: Path, features: Path, network: ProductSearchModel, products: Items, vectors: np.ndarray
) -> list[Measure]:
    """Evaluate each task on held-out products: those that answer test queries.

    Args:
        data: The data set.
        features: What `featurize` made of it.
        network: The model, in evaluation mode.
        products: The catalogue.
        vectors: The catalogue, encoded: float32 (P, dim).
    """
    held_out = products.take(products.splits == "test")
    titles = store.read_table(data, "products", ["product_id", "title"])
    title_of = dict(zip(*titles.to_pydict().values(), strict=True))
    vocabulary = Vocabulary.load(features / "vocabulary.json")
    tokens = vocabulary.encode([title_of[product] for product in held_out.ids], held_out.tokens.shape[1])
    facets = Facets.load(features, vocabulary)
    entities = Entities(facets, vocabulary.continuations)
    return [
        *_evaluate_retrieval(network, replace(held_out, tokens=tokens)),
        *_evaluate_similarity(data, products, vectors),
        *_evaluate_tags(network, products, facets),
        *_evaluate_entities(network, tokens, facets.values[products.splits == "test"], entities),
    ]


def _evaluate_retrieval(network: ProductSearchModel, titled: Items) -> Iterator[Measure]:
    """Retrieve the picture of a title and the title of a picture, among products that have both.

    Args:
        network: The model.
        titled: Held-out products, with the title as their only text.
    """
    titled = titled.without("video").without("joint")
    rows = np.flatnonzero(titled.present[:, :2].all(1))
    products = titled.take(np.sort(np.random.default_rng(SEED).permutation(rows)[:MAX_RETRIEVAL_PRODUCTS]))
    if not len(products):
        return
    qrels = _exact_qrels(products.ids, products.ids)
    title_embeddings, picture_embeddings = (
        embed(network, products, "product", [modality]) for modality in ("text", "image")
    )
    for task, queries, answers in (
        ("title → picture", title_embeddings, picture_embeddings),
        ("picture → title", picture_embeddings, title_embeddings),
    ):
        rankings = build_run_table(products.ids, products.ids, *top_k(queries, answers, 100))
        yield from _score_task(
            task, rankings, qrels, RETRIEVAL_METRICS, f"{len(products):,} held-out products"
        )


def _evaluate_similarity(data: Path, products: Items, vectors: np.ndarray) -> Iterator[Measure]:
    """Retrieve the other exact matches of a query, with one exact match as the query."""
    pairs = _read_similar_pairs(data)
    if not len(pairs):
        return
    rows = np.flatnonzero(np.isin(products.ids, pairs["product_id"].to_numpy()))
    rankings = build_run_table(products.ids[rows], products.ids, *top_k(vectors[rows], vectors, 101))
    rankings = rankings.filter(pc.not_equal(rankings["query_id"], rankings["product_id"]))
    qrels = _exact_qrels(pairs["product_id"].to_numpy(), pairs["product_id_other"].to_numpy())
    basis = f"{len(rows):,} products as queries"
    yield from _score_task("similar products", rankings, qrels, SIMILARITY_METRICS, basis)


def _read_similar_pairs(data: Path) -> pa.Table:
    """Read pairs of products that are exact matches of the same test query: product_id, product_id_other."""
    queries = store.read_table(data, "queries", ["query_id", "split"])
    test_ids = queries.filter(pc.equal(queries["split"], "test"))["query_id"]
    judgements = store.read_table(data, "judgements")
    is_exact_test = pc.and_(pc.is_in(judgements["query_id"], test_ids), pc.equal(judgements["grade"], EXACT))
    exact = judgements.filter(is_exact_test).select(["query_id", "product_id"])
    pairs = exact.join(exact, "query_id", right_suffix="_other", join_type="inner")
    pairs = pairs.filter(pc.not_equal(pairs["product_id"], pairs["product_id_other"]))
    names = ["product_id", "product_id_other"]
    return pairs.select(names).group_by(names).aggregate([])


def _evaluate_tags(network: ProductSearchModel, products: Items, facets: Facets) -> Iterator[Measure]:
    """Macro-averaged F1 of each kind of tag over held-out products that state it, by the modalities that are read."""
    from sklearn.metrics import f1_score

    held_out = products.take(products.splits == "test")
    held_out_values = facets.values[products.splits == "test"]
    modalities = {"all": network.config.modalities} | {name: [name] for name in network.config.modalities}
    predictions = {
        view: (held_out.has_any(names), network.predict_tags(held_out, names))
        for view, names in modalities.items()
    }
    for kind, (name, tags) in enumerate(network.config.tags.items()):
        column = facets.columns.index(name)
        labels = np.array([*facets.labels[column]])
        for view, (readable, predicted_tags) in predictions.items():
            rows = readable & (held_out_values[:, column] > 0)
            if rows.any():
                truth = labels[held_out_values[rows, column] - 1]
                predicted = np.array([*tags])[predicted_tags[kind][rows]]
                value = f1_score(truth, predicted, average="macro")
                basis = f"{rows.sum():,} held-out products that state it"
                yield Measure(f"tags: {name}", f"from {view}", "macro-F1", float(value), basis)


def _evaluate_entities(
    network: ProductSearchModel, titles: np.ndarray, values: np.ndarray, entities: Entities
) -> Iterator[Measure]:
    """F1 of each type of entity in the titles of held-out products; their columns are the ground truth.

    Args:
        network: The model.
        titles: Tokens of N titles, int32 (N, T).
        values: What their columns state, as `Facets.values`.
        entities: Labels titles from columns.
    """
    if not len(titles) or not entities.types:
        return
    truth = entities.label(titles, values)
    with torch.inference_mode():
        predicted = network.recognise(torch.from_numpy(titles.astype(np.int64))).numpy()
    for kind, name in enumerate(entities.types, start=1):
        title_count = sum(any(label == kind for label, *_ in spans(row)) for row in truth.tolist())
        if title_count:
            basis = f"{title_count:,} held-out titles that name it"
            yield Measure(f"entities: {name}", "in titles", "F1", f1(truth, predicted, kind), basis)


def _exact_qrels(queries: np.ndarray, products: np.ndarray) -> Qrels:
    """Judge each product an exact match of the query at the same position."""
    columns = {"query_id": pa.array(queries, pa.string()), "product_id": pa.array(products, pa.string())}
    return Qrels.from_table(pa.table(columns | {"grade": np.full(len(queries), EXACT)}))


def _score_task(
    task: str, rankings: pa.Table, qrels: Qrels, metrics: Sequence[str], basis: str
) -> Iterator[Measure]:
    means = score(Run.from_table(rankings), qrels, metrics, relevant=EXACT).means()
    yield from (Measure(task, "", metric, value, basis) for metric, value in means.items())
