"""`python -m fusion`: a saved model's run over a data set, its view of products, and why one answers a query."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq

from catalog.command import run
from catalog.schema import SPLITS
from fusion.search.catalogue_search import rank_data
from fusion.search.explanations import explain_data
from fusion.search.matching import embed_data
from fusion.search.rerank import RERANKERS


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb; the exit code of `catalog.command.run`."""
    top = argparse.ArgumentParser(prog="python -m fusion")
    verbs = top.add_subparsers(dest="verb", required=True)
    ranking = verbs.add_parser("rank", help="rank a data set's queries")
    ranking.set_defaults(work=_rank)
    seeing = verbs.add_parser("embed", help="products' vectors, and how well picture and text match")
    seeing.set_defaults(work=_embed)
    why = verbs.add_parser("explain", help="tell what a product's score for a query is made of")
    why.set_defaults(work=_explain)
    for verb in (ranking, seeing, why):
        verb.add_argument("--model", type=Path, required=True, help="folder that the train stage wrote")
        verb.add_argument("--data", type=Path, required=True)
    ranking.add_argument("--split", choices=SPLITS, default="test")
    ranking.add_argument("--depth", type=int, default=100)
    ranking.add_argument(
        "--rerank", choices=list(RERANKERS.entries), help="a second stage, over the first products"
    )
    ranking.add_argument(
        "--rerank-weights", metavar="PATH", help="its folder, or id on the hub; else the published"
    )
    ranking.add_argument("--top", type=int, default=50, help="products of each query that it puts in order")
    ranking.add_argument("--run", type=Path, required=True, help="parquet file to write")
    seeing.add_argument("--products", type=Path, required=True, help="parquet file with their product_id")
    seeing.add_argument("--vectors", type=Path, required=True, help="parquet file to write")
    why.add_argument("--query", required=True, metavar="ID")
    why.add_argument("--product", required=True, metavar="ID")
    why.add_argument("--overlay", type=Path, help="picture to write: red where it speaks for the product")
    asked = top.parse_args(argv)
    return run(lambda: asked.work(asked))


def _rank(asked: argparse.Namespace) -> None:
    second = RERANKERS[asked.rerank](asked.rerank_weights) if asked.rerank else None
    found = rank_data(asked.model, asked.data, asked.split, asked.depth, second, asked.top)
    pq.write_table(found, asked.run)


def _embed(asked: argparse.Namespace) -> None:
    wanted = pq.read_table(asked.products, columns=["product_id"])["product_id"].combine_chunks()
    pq.write_table(embed_data(asked.model, asked.data, wanted), asked.vectors)


def _explain(asked: argparse.Namespace) -> None:
    found = explain_data(asked.model, asked.data, asked.query, asked.product)
    print("\n".join(found.lines()))
    overlay = found.overlay()
    if asked.overlay and overlay is None:
        print("the product has no picture, so there is no overlay", file=sys.stderr)
    elif asked.overlay and overlay:
        overlay.save(asked.overlay)


if __name__ == "__main__":
    sys.exit(main())
