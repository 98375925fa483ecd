"""`python -m fusion rank`: a saved model's run over a data set, in a process of its own."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq

from catalog.command import run
from catalog.schema import SPLITS
from fusion.rerank import RERANKERS
from fusion.search import rank_data


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb; the exit code of `catalog.command.run`."""
    top = argparse.ArgumentParser(prog="python -m fusion")
    verb = top.add_subparsers(dest="verb", required=True).add_parser("rank", help="rank a data set's queries")
    verb.add_argument("--model", type=Path, required=True, help="folder that the train stage wrote")
    verb.add_argument("--data", type=Path, required=True)
    verb.add_argument("--split", choices=SPLITS, default="test")
    verb.add_argument("--depth", type=int, default=100)
    verb.add_argument(
        "--rerank", choices=list(RERANKERS.entries), help="a second stage, over the first products"
    )
    verb.add_argument(
        "--rerank-weights", metavar="PATH", help="its folder, or id on the hub; else the published"
    )
    verb.add_argument("--top", type=int, default=50, help="products of each query that it puts in order")
    verb.add_argument("--run", type=Path, required=True, help="parquet file to write")
    asked = top.parse_args(argv)

    def ranked() -> None:
        second = RERANKERS[asked.rerank](asked.rerank_weights) if asked.rerank else None
        found = rank_data(asked.model, asked.data, asked.split, asked.depth, second, asked.top)
        pq.write_table(found, asked.run)

    return run(ranked)


if __name__ == "__main__":
    sys.exit(main())
