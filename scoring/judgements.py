"""The judgements of a split, by who judged."""

from itertools import compress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from vitrine_judge.arrays import locate, text_order
from vitrine_judge.rankings import Qrels

from catalog import store
from catalog.schema import HUMAN, JUDGED_BY, DataError
from fusion.features import MODALITIES, Items

MISSING_MODALITY = "missing modality of relevant products"  # a way to group queries


class Judgements(NamedTuple):
    """Judgements of one kind of judge.

    Attributes:
        qrels: The judgements.
        segments: Segment of each judged query: str (Q,), in the order of the queries' ids; "all" for none.
    """

    qrels: Qrels
    segments: np.ndarray


def read_judgements_by_judge(data: Path, split: str) -> dict[str, Judgements]:
    """Read who judged queries of a split → the judgements.

    The keys are of `catalog.schema.JUDGED_BY` and in its order, the most trusted first. A mean over several kinds of
    judge would mean nothing, so they stay separate.

    Raises:
        DataError: where no query of the split is judged.
    """
    queries = store.read_table(data, "queries", ["query_id", "split", "segment", "judged_by"])
    queries = queries.filter(pc.equal(queries["split"], split))
    table = store.read_table(data, "judgements")
    segments = dict(zip(queries["query_id"].to_pylist(), queries["segment"].to_pylist(), strict=True))
    judgements = {}
    for judge in JUDGED_BY:
        query_ids = queries.filter(pc.equal(pc.fill_null(queries["judged_by"], HUMAN), judge))["query_id"]
        rows = table.filter(pc.is_in(table["query_id"], query_ids))
        if len(rows):
            qrels = Qrels.from_table(rows)
            names = np.array([segments[query] or "all" for query in np.sort(qrels.query_ids)])
            judgements[judge] = Judgements(qrels, names)
    if not judgements:
        raise DataError(f"{data}: no judged query has the split '{split}'; nothing to evaluate on")
    return judgements


def read_judgements(data: Path, split: str) -> Judgements:
    """Read the judgements of the most trusted kind of judge; arguments and errors as `read_judgements_by_judge`."""
    return next(iter(read_judgements_by_judge(data, split).values()))


def find_missing_modalities(products: Items, qrels: Qrels, relevant: int) -> np.ndarray:
    """Find the modalities that some relevant product of each query lacks.

    Args:
        products: The catalogue.
        qrels: Judgements of Q queries.
        relevant: The lowest grade of a relevant product.

    Returns:
        Names such as "image, video", or "none": str (Q,), in the order of the queries' ids.
    """
    rows = locate(qrels.products, pa.array(products.ids))[qrels.product_index]
    absent = ~products.present[rows] & ((qrels.values >= relevant) & (rows >= 0))[:, None]
    missing = np.logical_or.reduceat(absent, qrels.offsets[:-1])
    names = [", ".join(compress(MODALITIES, row)) or "none" for row in missing]
    return np.array(names)[text_order(qrels.queries)]
