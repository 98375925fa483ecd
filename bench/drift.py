"""How far changed data lie from the champion's: `python bench/drift.py [DATA] > TABLE.md`.

DATA are those of the champion in MLflow: `make demo`, then `python -m registry promote 1`.
"""

import io
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from catalog import store
from catalog.images import decode
from catalog.sample import sample
from components.params import ValidateParams
from eval.tables import table
from validation.champion_comparison import Beside, beside_champion
from validation.drift import profile

Row = dict[str, Any]
PARAMS = ValidateParams(model_name="product-search")


def grey(row: Row) -> Row:
    if not row["image"]:
        return row
    stream = io.BytesIO()
    decode(row["image"]["bytes"]).convert("L").save(stream, "PNG")
    return row | {"image": {"bytes": stream.getvalue(), "path": None}}


def dearer(share: float) -> Callable[[Row], Row]:
    return lambda row: row | {"price": row["price"] and row["price"] * (1 + share)}


CHANGES: dict[str, Callable[[Row], Row | None]] = {
    "nothing": lambda row: row,
    "prices 10 % higher": dearer(0.1),
    "prices 50 % higher": dearer(0.5),
    "no descriptions": lambda row: row | {"description": None},
    "grey pictures": grey,
    "no pictures": lambda row: row | {"image": None},
    "shoes and bags are gone": lambda row: (
        None if (row["category"] or "").split("/")[0] in ("shoes", "bags") else row
    ),
}


def beside(data: Path) -> Beside:
    found = beside_champion(data, profile(data, PARAMS.compared), PARAMS)
    if found is None:
        sys.exit("there is no champion; promote a version first")
    return found


def main(data: Path) -> None:
    rows = store.read(data, "products").to_pylist()
    found: dict[str, Beside] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, change) in enumerate(tqdm(CHANGES.items())):
            changed = Path(folder) / str(number)
            with store.TableWriter(changed, "products") as writer:
                for row in map(change, rows):
                    if row:
                        writer.write(row)
            found[name] = beside(changed)
        sample(Path(folder) / "new", products=len(rows), seed=8)
        found["all products are new, of the same kind"] = beside(Path(folder) / "new")
    told = [
        [
            name,
            *(
                f"{one.index:.3f}{'*' if one.proven and one.index > PARAMS.max_drift else ''}"
                for one in seen.drifts
            ),
        ]
        for name, seen in found.items()
    ]
    print(table([["change", *(one.what for one in found["nothing"].drifts)], *told]))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else Path("data"))
