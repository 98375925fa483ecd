"""A folder in BEIR's layout: `corpus.jsonl`, `queries.jsonl`, `qrels/{train,dev,test}.tsv`.

https://github.com/beir-cellar/beir (Thakur et al., NeurIPS 2021)
"""

from collections.abc import Iterator, Mapping

from catalog.conversion import Row
from catalog.files import Files
from catalog.reading import Record, read_rows
from catalog.schema import EXACT, HUMAN, IRRELEVANT, SUBSTITUTE
from catalog.sources import source
from catalog.splits import SHARES, assign_splits
from catalog.text import normalise

SPLIT_NAMES = {"train": "train", "dev": "valid", "test": "test"}


@source("beir")
def beir(files: Files) -> Iterator[Row]:
    """BEIR's layout: the highest score of a data set becomes exact, 0 irrelevant, scores in between substitute.

    A query is in the split of the qrels file that judges it; missing splits are cut out of the others.
    """
    corpus, queries = files.require("corpus.jsonl*"), files.require("queries.jsonl*")
    for record in read_rows(files, corpus, ["_id", "text"]):
        title, text = record.values.get("title"), record.values["text"]
        values = {"product_id": record.values["_id"], "title": title or text, "description": text}
        yield Row("products", record.where, values)
    judgements = _read_judgements(files)
    query_records = list(read_rows(files, queries, ["_id", "text"]))
    texts = {record.values["_id"]: normalise(record.values["text"]) or "" for record in query_records}
    splits = _fill_missing_splits({record.values["query-id"]: split for split, record in judgements}, texts)
    for record in query_records:
        query_id, text = record.values["_id"], record.values["text"]
        if query_id in splits:
            values = {"query_id": query_id, "text": text, "split": splits[query_id], "judged_by": HUMAN}
            yield Row("queries", record.where, values)
    scores = (record.values["score"] for _, record in judgements)
    highest = max((int(score) for score in scores if score.isdigit()), default=1)
    for _, record in judgements:
        values = {
            "query_id": record.values["query-id"],
            "product_id": record.values["corpus-id"],
            "grade": _grade(record.values["score"], highest),
        }
        yield Row("judgements", record.where, values)


def _read_judgements(files: Files) -> list[tuple[str, Record]]:
    """Read the qrels files: pairs of split and row. A single file of any other name is the training split."""
    tables = {split: files.find(f"qrels/{name}.tsv") for name, split in SPLIT_NAMES.items()}
    names = [(split, name) for split, name in tables.items() if name]
    return [
        (split, record)
        for split, name in names or [("train", files.require("qrels/*.tsv"))]
        for record in read_rows(files, name, ["query-id", "corpus-id", "score"], delimiter="\t")
    ]


def _fill_missing_splits(splits: dict[str, str], texts: Mapping[str, str]) -> dict[str, str]:
    """Move a share of the largest split's queries to each split that has none.

    Args:
        splits: Query id → split.
        texts: Query id → normalised text, whose hash decides.
    """
    present = list(splits.values())
    largest = max(SHARES, key=present.count)
    shares = {name: share for name, share in SHARES.items() if name == largest or name not in present}
    total = sum(shares.values())
    keys = {query: texts.get(query, query) for query, name in splits.items() if name == largest}
    moved = assign_splits(keys.values(), {name: share / total for name, share in shares.items()})
    return splits | {query: moved[text] for query, text in keys.items()}


def _grade(score: str, highest: int) -> int | str:
    if not score.isdigit():
        return score  # the conversion rejects it
    return EXACT if int(score) == highest else SUBSTITUTE if int(score) else IRRELEVANT
