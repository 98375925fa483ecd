"""Counts the variants of a product as one result: the best variant stands for all."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import pyarrow as pa
from vitrine_judge.rankings import Run

from catalog import store
from catalog.groups import name_groups


@dataclass(frozen=True)
class Grouping:
    """Which products are one result.

    Attributes:
        representatives: Product id → the first product id of its group; empty where each product is a result.
    """

    representatives: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, data: Path, column: str | None) -> Self:
        """Read the groups of a data set.

        Args:
            data: The data set.
            column: The column of products that names the group; products without a group are their own. None for no
                groups.
        """
        if column is None:
            return cls()
        products = store.read_table(data, "products", ["product_id", column])
        groups = name_groups(products["product_id"], products[column])
        table = pa.table({"group": groups, "product_id": products["product_id"]})
        first = table.group_by("group").aggregate([("product_id", "min")])
        representative = dict(
            zip(*first.select(["group", "product_id_min"]).to_pydict().values(), strict=True)
        )
        return cls(
            {
                product: representative[group]
                for group, product in zip(*table.to_pydict().values(), strict=True)
            }
        )

    def collapse(self, pairs: pa.Table, value: str) -> pa.Table:
        """Replace products by the first of their group, each once per query, with its highest value.

        Args:
            pairs: Columns query_id, product_id and `value`, the scores of a run or the grades of judgements.
            value: The name of the values' column.
        """
        if not self.representatives:
            return pairs
        ids = [self.representatives.get(key, key) for key in pairs["product_id"].to_pylist()]
        table = pairs.set_column(
            pairs.column_names.index("product_id"), "product_id", pa.array(ids, pa.string())
        )
        best = table.group_by(["query_id", "product_id"]).aggregate([(value, "max")])
        return best.rename_columns({f"{value}_max": value})

    def collapse_run(self, run: Run) -> Run:
        """Collapse a run, as `collapse`; a collapsed run stays the same."""
        if not self.representatives:
            return run
        pairs = {
            "query_id": run.query_ids[run.query_index],
            "product_id": run.product_ids,
            "score": run.values,
        }
        return Run.from_table(self.collapse(pa.table(pairs), "score"))
