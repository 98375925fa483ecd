"""A folder in BEIR's layout: `corpus.jsonl`, `queries.jsonl`, `qrels/{train,dev,test}.tsv`.

https://github.com/beir-cellar/beir (Thakur et al., NeurIPS 2021)
"""

from collections.abc import Iterator

from catalog.conversion import Row
from catalog.reading import Files, rows
from catalog.schema import EXACT, HUMAN, IRRELEVANT, SUBSTITUTE
from catalog.sources import source
from catalog.splits import SHARES, split

SPLITS = {"train": "train", "dev": "valid", "test": "test"}


@source("beir")
def beir(files: Files) -> Iterator[Row]:
    """BEIR's layout: the highest score that a set uses is exact, 0 irrelevant, what lies between a substitute.

    A query is in the split of the qrels that judge it; splits without a file are cut out of the others.
    """
    corpus, queries = files.need("corpus.jsonl*"), files.need("queries.jsonl*")
    for one in rows(files, corpus, ["_id", "text"]):
        title, text = one.values.get("title"), one.values["text"]
        yield Row(
            "products",
            one.where,
            {"product_id": one.values["_id"], "title": title or text, "description": text},
        )
    tables = {ours: files.find(f"qrels/{name}.tsv") for name, ours in SPLITS.items()}
    found = [(ours, name) for ours, name in tables.items() if name] or [("train", files.need("qrels/*.tsv"))]
    judged = [
        (ours, one)
        for ours, name in found
        for one in rows(files, name, ["query-id", "corpus-id", "score"], delimiter="\t")
    ]
    of = _splits({one.values["query-id"]: ours for ours, one in judged})
    for one in rows(files, queries, ["_id", "text"]):
        if one.values["_id"] in of:
            own = {"query_id": one.values["_id"], "text": one.values["text"], "split": of[one.values["_id"]]}
            yield Row("queries", one.where, {**own, "judged_by": HUMAN})
    best = max((int(one.values["score"]) for _, one in judged if one.values["score"].isdigit()), default=1)
    for _, one in judged:
        own = {"query_id": one.values["query-id"], "product_id": one.values["corpus-id"]}
        yield Row("judgements", one.where, own | {"grade": _grade(one.values["score"], best)})


def _splits(of: dict[str, str]) -> dict[str, str]:
    """Splits that have no queries get a share of those of the largest."""
    for lacking in (name for name in SHARES if name not in of.values()):
        largest = max(SHARES, key=list(of.values()).count)
        share = SHARES[lacking] / (SHARES[lacking] + SHARES[largest])
        cut = split(
            (key for key, name in of.items() if name == largest), {largest: 1 - share, lacking: share}
        )
        of = of | cut
    return of


def _grade(score: str, best: int) -> int | str:
    if not score.isdigit():
        return score  # which is then said to be no grade
    return EXACT if int(score) == best else SUBSTITUTE if int(score) else IRRELEVANT
