"""`python -m fusion`: rank, embed, index and explain products with a trained model; write the vectors of a teacher."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq

from catalog.command import run_command
from catalog.schema import SPLITS, DataError
from catalog.threads import limit_threads


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code of `catalog.command.run_command`."""
    limit_threads()  # before PyTorch is imported
    arguments = _build_parser().parse_args(argv)
    return run_command(lambda: arguments.function(arguments))


def _build_parser() -> argparse.ArgumentParser:
    from fusion.search.rerank import RERANKERS

    parser = argparse.ArgumentParser(prog="python -m fusion")
    commands = parser.add_subparsers(dest="command", required=True)
    rank = commands.add_parser("rank", help="rank products for the queries of a data set")
    rank.set_defaults(function=_rank)
    embed = commands.add_parser("embed", help="embed products, and score how well picture and text match")
    embed.set_defaults(function=_embed)
    _add_embed_texts(
        commands.add_parser("embed-texts", help="embed texts of queries, such as those of a log")
    )
    explain = commands.add_parser("explain", help="explain the score of a product for a query")
    explain.set_defaults(function=_explain)
    index = commands.add_parser("index", help="build the index of a data set; encodes only what changed")
    index.set_defaults(function=_index)
    for command in (rank, embed, explain, index):
        command.add_argument("--model", type=Path, required=True, help="folder that the train stage wrote")
        command.add_argument("--data", type=Path, required=True, help="data set")
    rank.add_argument("--split", choices=SPLITS, default="test")
    rank.add_argument("--depth", type=int, default=100, help="products per query")
    rank.add_argument("--rerank", choices=list(RERANKERS.entries), help="reranker for the top products")
    rank.add_argument(
        "--rerank-weights",
        metavar="PATH",
        help="folder of the reranker, or its id on the hub; default: the published weights",
    )
    rank.add_argument("--top", type=int, default=50, help="products per query to rerank")
    rank.add_argument(
        "--hybrid", type=Path, help="hybrid.json of an evaluation, to rank with its share of BM25"
    )
    rank.add_argument("--run", type=Path, required=True, help="parquet file to write")
    embed.add_argument("--products", type=Path, required=True, help="parquet file with a column product_id")
    embed.add_argument("--vectors", type=Path, required=True, help="parquet file to write")
    explain.add_argument("--query", required=True, metavar="ID")
    explain.add_argument("--product", required=True, metavar="ID")
    explain.add_argument(
        "--overlay", type=Path, help="picture to write: red regions increase the product's score"
    )
    _add_index(index)
    _add_teach(commands.add_parser("teach", help="write a model's vectors of a data set, for train.teacher"))
    return parser


def _add_embed_texts(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", type=Path, required=True, help="folder that the train stage wrote")
    parser.add_argument(
        "--queries", type=Path, required=True, help="parquet file with columns query_id and text"
    )
    parser.add_argument("--vectors", type=Path, required=True, help="parquet file to write")
    parser.set_defaults(function=_embed_texts)


def _add_index(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--index", type=Path, required=True, help="folder to write")
    parser.add_argument("--hybrid", type=Path, help="hybrid.json of the evaluation, for the language of BM25")
    parser.add_argument(
        "--previous", type=Path, help="an earlier index of the same model; unchanged products are not encoded"
    )
    parser.add_argument(
        "--learnt",
        type=Path,
        help="lists.npz of the version's own index, whose lists and codes are used again",
    )
    parser.add_argument("--report", type=Path, help="JSON file to write: counts, times and checks")


def _add_teach(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(function=_teach)
    parser.add_argument("--model", type=Path, help="folder that the train stage wrote; with --data")
    parser.add_argument("--data", type=Path, help="data set to encode with the model")
    parser.add_argument(
        "--features",
        type=Path,
        help="in place of a model: folder that the featurize stage wrote with a joint encoder or with both towers of "
        "a dual encoder",
    )
    parser.add_argument("--teacher", type=Path, required=True, help="folder to write")


def _rank(arguments: argparse.Namespace) -> None:
    from fusion.search.catalogue_search import rank_data
    from fusion.search.rerank import RERANKERS

    reranker = RERANKERS[arguments.rerank](arguments.rerank_weights) if arguments.rerank else None
    run = rank_data(
        arguments.model,
        arguments.data,
        arguments.split,
        arguments.depth,
        reranker,
        arguments.top,
        arguments.hybrid,
    )
    pq.write_table(run, arguments.run)


def _embed(arguments: argparse.Namespace) -> None:
    from fusion.search.matching import embed_data

    products = pq.read_table(arguments.products, columns=["product_id"])
    product_ids = products["product_id"].combine_chunks()
    pq.write_table(embed_data(arguments.model, arguments.data, product_ids), arguments.vectors)


def _embed_texts(arguments: argparse.Namespace) -> None:
    from fusion.search.query_texts import embed_texts

    queries = pq.read_table(arguments.queries, columns=["query_id", "text"])
    pq.write_table(embed_texts(arguments.model, queries), arguments.vectors)


def _explain(arguments: argparse.Namespace) -> None:
    from fusion.search.explanations import explain_data

    explanation = explain_data(arguments.model, arguments.data, arguments.query, arguments.product)
    print("\n".join(explanation.lines()))
    overlay = explanation.overlay()
    if arguments.overlay and overlay is None:
        print("the product has no picture, so there is no overlay", file=sys.stderr)
    elif arguments.overlay and overlay:
        overlay.save(arguments.overlay)


def _index(arguments: argparse.Namespace) -> None:
    from fusion.search.building import build_index

    names = ("model", "data", "index", "hybrid", "previous", "learnt", "report")
    build_index(*(getattr(arguments, name) for name in names))


def _teach(arguments: argparse.Namespace) -> None:
    from fusion.search.teaching import write_model_teacher, write_zero_shot_teacher

    model, data, features = arguments.model, arguments.data, arguments.features
    if model and data and not features:
        write_model_teacher(model, data, arguments.teacher)
    elif features and not (model or data):
        write_zero_shot_teacher(features, arguments.teacher)
    else:
        raise DataError(
            "teach: give a trained model with --model and --data, or published encoders with --features"
        )


if __name__ == "__main__":
    sys.exit(main())
