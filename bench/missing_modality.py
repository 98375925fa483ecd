"""Quality when products lose their pictures or texts: `python bench/missing_modality.py [SHARE] > TABLE.md`.

The model is that of `artifacts/`, trained on the complete catalogue. A random share of the products loses its pictures
or its texts at test time. The fused model is compared with BM25 and with its tower of the other modality, over the
same test queries.
"""

import argparse
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
from vitrine_judge.metrics import score
from vitrine_judge.rankings import Run
from vitrine_judge.significance import paired_test

from catalog import store
from catalog.schema import TEXT_COLUMNS
from components.params import EvaluateParams
from fusion.features import Items
from fusion.featurizer import load_items
from fusion.model import ProductSearchModel
from fusion.search.bm25 import rank_bm25
from fusion.search.catalogue_search import rank_products
from fusion.search.lexical_index import LexicalIndex
from scoring.judgements import read_judgements

PRIMARY = "ndcg@10"
SEED = 0
UNTOUCHED = {"image": "text", "text": "image"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("share", type=float, nargs="?", default=0.3)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--artifacts", type=Path, default=Path("artifacts"))
    arguments = parser.parse_args()
    params = EvaluateParams()
    model = ProductSearchModel.load(arguments.artifacts / "train")
    features = arguments.artifacts / "featurize"
    products, queries = (
        load_items(features, table, arguments.artifacts / "train", model.attends)
        for table in ("products", "queries")
    )
    test, qrels = queries.take(queries.splits == "test"), read_judgements(arguments.data, "test").qrels
    rng = np.random.default_rng(SEED)
    lost = np.sort(rng.permutation(len(products))[: round(arguments.share * len(products))])
    print(f"    python bench/missing_modality.py {arguments.share}\n")
    print(
        f"| taken from {arguments.share:.0%} | system | {PRIMARY} | fused minus it | p |\n|---|---|---|---|---|"
    )
    for modality, untouched in UNTOUCHED.items():
        reduced_products = products.without(modality, lost)
        runs = {
            "bm25": rank_keywords(
                arguments.data,
                test,
                reduced_products,
                products.ids[lost] if modality == "text" else (),
                params.depth,
            ),
            untouched: rank_products(model, test, reduced_products, params.depth, [untouched]),
            "fused": rank_products(model, test, reduced_products, params.depth),
        }
        values = {
            name: score(Run.from_table(run), qrels, [PRIMARY], gains=params.gains).values[PRIMARY]
            for name, run in runs.items()
        }
        for name, system_values in values.items():
            cells = [modality, name, f"{system_values.mean():.3f}"]
            if name == "fused":
                cells += ["", ""]
            else:
                result = paired_test(values["fused"], system_values)
                cells += [f"{result.difference:+.3f}", f"{result.p_value:.1g}"]
            print(f"| {' | '.join(cells)} |")


def rank_keywords(
    data: Path, queries: Items, products: Items, textless: Iterable[str], depth: int
) -> pa.Table:
    """BM25 over a catalogue in which some products have no text."""
    textless_ids = set(textless)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        with store.TableWriter(copy, "products") as table:
            for batch in store.read_batches(data, "products", ["product_id", *TEXT_COLUMNS]):
                for row in batch.to_pylist():
                    emptied = {"product_id": row["product_id"], "title": ""}
                    table.write(emptied if row["product_id"] in textless_ids else row)
        (copy / "queries").symlink_to((data / "queries").resolve())
        return rank_bm25(copy, queries.ids, depth, LexicalIndex.build(copy, ocr=products.ocr))


if __name__ == "__main__":
    main()
