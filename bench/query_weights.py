"""Would late-fusion weights of each query help? `python bench/query_weights.py RUNS --data DATA --features FEATURES`.

RUNS is a folder of `bench/ablation.py`; a query has its mean over all runs there. The query ranks the products by their
fused embeddings with late-fusion weights, or by a single modality. Beside the fused system, as it is served:

    validation         the weights that are best on the validation queries
    by segment         the same for each segment
    better of two      for each test query the better one of the fused system and of the text tower
    best weights       for each test query the best weights

The last two are chosen with the judgements of the test queries: upper bounds of what weights of each query may reach.
"""

import argparse
from collections.abc import Mapping
from itertools import product
from pathlib import Path

import numpy as np
import torch
from vitrine_judge.metrics import score
from vitrine_judge.rankings import Run
from vitrine_judge.significance import paired_test

from catalog.progress import show_progress
from catalog.schema import GAINS
from fusion.features import Items
from fusion.featurizer import load_items
from fusion.model import ProductSearchModel, blend, embed
from fusion.search.catalogue_search import build_run_table
from fusion.search.late_fusion import WEIGHTS, embed_views
from fusion.search.vector_index import top_k
from scoring.judgements import read_judgements

PRIMARY = "ndcg@10"
TEXT = "text"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--features", type=Path, default=Path("artifacts/featurize"))
    arguments = parser.parse_args()
    folders = sorted(path.parent for path in arguments.runs.glob("*/model"))
    results = [
        compare_weights(folder / "model", arguments.data, arguments.features)
        for folder in show_progress(folders, "runs")
    ]
    print(f"| {PRIMARY} of {len(results[0]['fused'])} queries | mean | minus fused | p |\n|---|---|---|---|")
    means = {name: np.mean([result[name] for result in results], axis=0) for name in results[0]}
    for name, values in means.items():
        test = paired_test(values, means["fused"])
        print(f"| {name} | {values.mean():.3f} | {test.difference:+.3f} | {test.p_value:.1g} |")


def compare_weights(model: Path, data: Path, features: Path) -> dict[str, np.ndarray]:
    """The metric of each test query, float64 (Q,), by system, of one trained model."""
    network = ProductSearchModel.load(model)
    products, queries = (
        load_items(features, table, model, network.attends) for table in ("products", "queries")
    )
    vectors = weigh_views(network, embed_views(network, products), products)
    vectors["fused"] = embed(network, products, "product")
    scores, segments = {}, {}
    for split in ("valid", "test"):
        judgements, split_queries = read_judgements(data, split), queries.take(queries.splits == split)
        query_vectors = embed(network, split_queries, "query")
        segments[split] = judgements.segments
        scores[split] = {}
        for name, product_vectors in vectors.items():
            best = top_k(query_vectors, product_vectors, 10)
            run = Run.from_table(build_run_table(split_queries.ids, products.ids, *best))
            scores[split][name] = score(run, judgements.qrels, [PRIMARY], gains=GAINS).values[PRIMARY]
    return choose_weights(scores, segments)


def choose_weights(
    scores: Mapping[str, Mapping[str, np.ndarray]], segments: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The systems of the table from the metric of each query, by split and by weights, and the queries' segments."""
    valid, test = (
        np.stack(list(scores[split].values())) for split in ("valid", "test")
    )  # (weights, queries)
    text, fused = scores["test"][TEXT], scores["test"]["fused"]
    by_segment = np.empty_like(fused)
    for segment in np.unique(segments["test"]):
        in_segment = segments["test"] == segment
        tuned = valid[:, segments["valid"] == segment].mean(1).argmax()
        by_segment[in_segment] = test[tuned, in_segment]
    return {
        TEXT: text,
        "fused": fused,
        "validation": test[valid.mean(1).argmax()],
        "by segment": by_segment,
        "better of two": np.maximum(text, fused),
        "best weights": test.max(0),
    }


def weigh_views(network: ProductSearchModel, views: torch.Tensor, products: Items) -> dict[str, np.ndarray]:
    """Vectors of the products, float32 (P, dim), by late-fusion weights and by single modality."""
    modalities = network.config.modalities
    present = torch.from_numpy(products.present[:, network.config.modality_columns])
    weighted = {
        name: (views[:, 1 + number] * present[:, number, None]).numpy()
        for number, name in enumerate(modalities)
    }
    for weights in product((0.0, *WEIGHTS), repeat=len(modalities)):
        weighted[str(weights)] = blend(views[:, 0], views[:, 1:], torch.tensor(weights) * present).numpy()
    return weighted


if __name__ == "__main__":
    main()
