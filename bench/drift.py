"""Drift scores of changed data: `python bench/drift.py [DATA] > TABLE.md`.

DATA is the data set of the champion in MLflow: `make demo`, then `python -m registry promote 1`.
"""

import io
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vitrine_judge.tables import format_table

from catalog import store
from catalog.images import decode
from catalog.progress import show_progress
from catalog.sample import write_sample
from catalog.schema import main_picture
from components.params import ValidateParams
from validation.champion_comparison import ChampionComparison, compare_with_champion
from validation.drift import profile_products

Row = dict[str, Any]
PARAMS = ValidateParams(model_name="product-search")


def make_grey(row: Row) -> Row:
    if not main_picture(row):
        return row
    stream = io.BytesIO()
    decode(main_picture(row)).convert("L").save(stream, "PNG")
    return row | {"images": [{"bytes": stream.getvalue(), "path": None}]}


def raise_price(share: float) -> Callable[[Row], Row]:
    return lambda row: row | {"price": row["price"] and row["price"] * (1 + share)}


CHANGES: dict[str, Callable[[Row], Row | None]] = {
    "nothing": lambda row: row,
    "prices 10 % higher": raise_price(0.1),
    "prices 50 % higher": raise_price(0.5),
    "no descriptions": lambda row: row | {"description": None},
    "grey pictures": make_grey,
    "no pictures": lambda row: row | {"images": None},
    "shoes and bags are gone": lambda row: (
        None if (row["category"] or "").split("/")[0] in ("shoes", "bags") else row
    ),
}


def measure_drift(data: Path) -> ChampionComparison:
    comparison = compare_with_champion(data, profile_products(data, PARAMS.compared), PARAMS)
    if comparison is None:
        sys.exit("there is no champion; promote a version first")
    return comparison


def main(data: Path) -> None:
    rows = store.read_table(data, "products").to_pylist()
    comparisons: dict[str, ChampionComparison] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, change) in enumerate(show_progress(CHANGES.items())):
            changed = Path(folder) / str(number)
            with store.TableWriter(changed, "products") as writer:
                for row in map(change, rows):
                    if row:
                        writer.write(row)
            comparisons[name] = measure_drift(changed)
        write_sample(Path(folder) / "new", products=len(rows), seed=8)
        comparisons["all products are new, of the same kind"] = measure_drift(Path(folder) / "new")
    cells = [
        [
            name,
            *(
                f"{drift.index:.3f}{'*' if drift.significant and drift.index > PARAMS.max_drift else ''}"
                for drift in comparison.drifts
            ),
        ]
        for name, comparison in comparisons.items()
    ]
    print(format_table([["change", *(drift.name for drift in comparisons["nothing"].drifts)], *cells]))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else Path("data"))
