"""What else the model is good for: from titles to pictures and back, similar products, tags. Each with its measure."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from catalog import store
from catalog.schema import EXACT
from eval.metrics import score
from eval.rankings import Qrels, Run
from eval.report import Measure
from fusion.encoders.vocabulary import Vocabulary
from fusion.entities import Entities, f1, spans
from fusion.facets import Facets
from fusion.features import Items
from fusion.model import ProductSearchModel, embed
from fusion.search.catalogue_search import run_table
from fusion.search.vector_index import top_k

CANDIDATES = 1000  # held-out products that titles and pictures are told apart among, at most
FOUND = ("recall@1", "recall@5", "recall@10", "mrr@100")
ALIKE = ("ndcg@10", "recall@10", "mrr@10")
SEED = 0


def tasks(
    data: Path, features: Path, network: ProductSearchModel, products: Items, vectors: np.ndarray
) -> list[Measure]:
    """Measure each task on the products that answer test queries, which training did not see as answers.

    Args:
        data: The data set.
        features: What `featurize` made of it.
        network: The model, in evaluation mode.
        products: The catalogue.
        vectors: The same, encoded: float32 (P, dim).
    """
    held_out = products.take(products.splits == "test")
    titles = store.read(data, "products", ["product_id", "title"])
    written = dict(zip(*titles.to_pydict().values(), strict=True))
    vocabulary = Vocabulary.load(features / "vocabulary.json")
    tokens = vocabulary.encode([written[key] for key in held_out.ids], held_out.tokens.shape[1])
    facets = Facets.load(features, vocabulary)
    return [
        *_retrieval(network, replace(held_out, tokens=tokens)),
        *_similar(data, products, vectors),
        *_tagging(network, products, facets),
        *_entities(network, tokens, facets.values[products.splits == "test"], Entities(facets)),
    ]


def _retrieval(network: ProductSearchModel, titled: Items) -> Iterator[Measure]:
    """Which picture belongs to a title, which title to a picture, among products that have both."""
    titled = titled.without("video")
    both = np.flatnonzero(titled.present[:, :2].all(1))
    chosen = titled.take(np.sort(np.random.default_rng(SEED).permutation(both)[:CANDIDATES]))
    if not len(chosen):
        return
    same = _qrels(chosen.ids, chosen.ids)
    texts, pictures = (embed(network, chosen, "product", [seen]) for seen in ("text", "image"))
    for name, queries, candidates in (
        ("title → picture", texts, pictures),
        ("picture → title", pictures, texts),
    ):
        run = run_table(chosen.ids, chosen.ids, *top_k(queries, candidates, 100))
        yield from _measures(name, run, same, FOUND, f"{len(chosen):,} held-out products")


def _similar(data: Path, products: Items, vectors: np.ndarray) -> Iterator[Measure]:
    """Products that answer a query exactly, sought by one of the others that do."""
    queries = store.read(data, "queries", ["query_id", "split"])
    test = queries.filter(pc.equal(queries["split"], "test"))["query_id"]
    judged = store.read(data, "judgements")
    exact = judged.filter(
        pc.and_(pc.is_in(judged["query_id"], test), pc.equal(judged["grade"], EXACT))
    ).select(["query_id", "product_id"])
    pairs = exact.join(exact, "query_id", right_suffix="_other", join_type="inner")
    pairs = pairs.filter(pc.not_equal(pairs["product_id"], pairs["product_id_other"]))
    pairs = pairs.select(["product_id", "product_id_other"]).group_by(["product_id", "product_id_other"])
    alike = pairs.aggregate([])
    if not len(alike):
        return
    rows = np.flatnonzero(np.isin(products.ids, alike["product_id"].to_numpy()))
    found, scores = top_k(vectors[rows], vectors, 101)
    run = run_table(products.ids[rows], products.ids, found, scores)
    run = run.filter(pc.not_equal(run["query_id"], run["product_id"]))
    qrels = _qrels(alike["product_id"].to_numpy(), alike["product_id_other"].to_numpy())
    yield from _measures("similar products", run, qrels, ALIKE, f"{len(rows):,} products as queries")


def _tagging(network: ProductSearchModel, products: Items, facets: Facets) -> Iterator[Measure]:
    """Macro-averaged F1 of each kind of tag over held-out products that state it, by what the model sees of them."""
    from sklearn.metrics import f1_score

    held_out = products.take(products.splits == "test")
    stated = facets.values[products.splits == "test"]
    views = {"all": network.config.modalities} | {name: [name] for name in network.config.modalities}
    found = {view: (held_out.seen(only), network.best_tags(held_out, only)) for view, only in views.items()}
    for kind, (name, values) in enumerate(network.config.tags.items()):
        place = facets.columns.index(name)
        labels = np.array([*facets.labels[place]])
        for view, (seen, best) in found.items():
            rows = seen & (stated[:, place] > 0)
            if rows.any():
                truth, said = labels[stated[rows, place] - 1], np.array([*values])[best[kind][rows]]
                value = f1_score(truth, said, average="macro")
                basis = f"{rows.sum():,} held-out products that state it"
                yield Measure(f"tags: {name}", f"from {view}", "macro-F1", float(value), basis)


def _entities(
    network: ProductSearchModel, titles: np.ndarray, stated: np.ndarray, entities: Entities
) -> Iterator[Measure]:
    """F1 of each type of entity in the titles of held-out products, by what their columns state."""
    if not len(titles) or not entities.types:
        return
    truth = entities.label(titles, stated)
    with torch.inference_mode():
        found = network.recognise(torch.from_numpy(titles.astype(np.int64))).numpy()
    for kind, name in enumerate(entities.types, start=1):
        there = sum(any(what == kind for what, *_ in spans(row)) for row in truth.tolist())
        if there:
            basis = f"{there:,} held-out titles that name it"
            yield Measure(f"entities: {name}", "in titles", "F1", f1(truth, found, kind), basis)


def _qrels(queries: np.ndarray, products: np.ndarray) -> Qrels:
    columns = {"query_id": pa.array(queries, pa.string()), "product_id": pa.array(products, pa.string())}
    return Qrels.from_table(pa.table(columns | {"grade": np.full(len(queries), EXACT)}))


def _measures(
    task: str, run: pa.Table, qrels: Qrels, metrics: Sequence[str], basis: str
) -> Iterator[Measure]:
    means = score(Run.from_table(run), qrels, metrics, relevant=EXACT).means()
    yield from (Measure(task, "", metric, value, basis) for metric, value in means.items())
