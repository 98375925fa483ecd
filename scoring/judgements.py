"""The judgements of a split, by who judged; and which of them are held out."""

from hashlib import blake2b
from itertools import compress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from vitrine_judge.arrays import locate, text_order
from vitrine_judge.configuration import MetricConfiguration
from vitrine_judge.metrics import Scores
from vitrine_judge.rankings import Qrels, Run

from catalog import store
from catalog.schema import HUMAN, JUDGED_BY, DataError
from fusion.features import CONTENT, Items
from scoring.grouping import Grouping

MISSING_MODALITY = "missing modality of relevant products"  # a way to group queries


class Judgements(NamedTuple):
    """Judgements of one kind of judge.

    Attributes:
        qrels: The judgements.
        segments: Segment of each judged query: str (Q,), in the order of the queries' ids; "all" for none.
        clusters: Cluster of each judged query: str (Q,), likewise; None if each query is its own.
        grouping: Which products count as one result.
    """

    qrels: Qrels
    segments: np.ndarray
    clusters: np.ndarray | None
    grouping: Grouping = Grouping()

    def score(self, run: Run, configuration: MetricConfiguration) -> Scores:
        """Score a run; the variants of a product count as `grouping` says."""
        return configuration.score(self.grouping.collapse_run(run), self.qrels)


def read_judgements_by_judge(
    data: Path, split: str, holdout: float = 0.0, held: bool = False, collapse: str | None = None
) -> dict[str, Judgements]:
    """Read who judged queries of a split → the judgements.

    The keys are of `catalog.schema.JUDGED_BY` and in its order, the most trusted first. A mean over several kinds of
    judge would mean nothing, so they stay separate.

    Args:
        data: The data set.
        split: Of the queries.
        holdout: The share of clusters that is held out, by hash.
        held: Read the queries that are held out, in place of the others; there may be none.
        collapse: The column of products that names the variants of a product, which count as one; None for no groups.

    Raises:
        DataError: where no query of the split is judged.
    """
    queries = store.read_table(data, "queries", ["query_id", "split", "segment", "judged_by", "cluster"])
    queries = queries.filter(pc.equal(queries["split"], split))
    clusters = pc.coalesce(queries["cluster"], queries["query_id"]).to_pylist()
    queries = queries.set_column(
        queries.column_names.index("cluster"), "cluster", pa.array(clusters, pa.string())
    )
    queries = queries.filter(
        pa.array([is_held_out(cluster, holdout) == held for cluster in clusters], pa.bool_())
    )
    table = store.read_table(data, "judgements")
    labels = {row["query_id"]: (row["segment"] or "all", row["cluster"]) for row in queries.to_pylist()}
    judgements = {}
    grouping = Grouping.read(data, collapse)
    for judge in JUDGED_BY:
        query_ids = queries.filter(pc.equal(pc.fill_null(queries["judged_by"], HUMAN), judge))["query_id"]
        rows = table.filter(pc.is_in(table["query_id"], query_ids))
        if len(rows):
            qrels = Qrels.from_table(grouping.collapse(rows, "grade"))
            segments, names = np.array([labels[query] for query in np.sort(qrels.query_ids)]).T
            independent = len(np.unique(names)) == len(names)
            judgements[judge] = Judgements(qrels, segments, None if independent else names, grouping)
    if not judgements and not held:
        raise DataError(f"{data}: no judged query has the split '{split}'; nothing to evaluate on")
    return judgements


def read_judgements(data: Path, split: str, holdout: float = 0.0, collapse: str | None = None) -> Judgements:
    """Read the judgements of the most trusted kind of judge; arguments and errors as `read_judgements_by_judge`."""
    return next(iter(read_judgements_by_judge(data, split, holdout, collapse=collapse).values()))


def is_held_out(cluster: str, share: float) -> bool:
    """Whether a cluster of queries is held out: by a hash, so that it never changes while others come and go.

    Args:
        cluster: Its name; for a query without a cluster, the query's id.
        share: Of all clusters.
    """
    digest = blake2b(cluster.encode(), digest_size=8, person=b"holdout").digest()
    return int.from_bytes(digest) < share * 2**64


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
    absent = ~products.present[rows, : len(CONTENT)] & ((qrels.values >= relevant) & (rows >= 0))[:, None]
    missing = np.logical_or.reduceat(absent, qrels.offsets[:-1])
    names = [", ".join(compress(CONTENT, row)) or "none" for row in missing]
    return np.array(names)[text_order(qrels.queries)]
