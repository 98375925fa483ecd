"""What `validate` finds of defects planted in a data set: `python bench/defects.py [DATA [SEED [PAGE]]] > TABLE.md`.

The champion in MLflow looks at the pictures, so there must be one: `make demo`, then
`python -m registry promote 1`. PAGE is where to write what it says of them.
"""

import io
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import great_expectations.expectations as gxe
import pandas as pd
from PIL import Image, ImageEnhance

from catalog import store
from catalog.images import Limits, decode
from catalog.schema import DERIVED, EXACT
from components.params import ValidateParams
from eval.tables import table
from validation.champion_comparison import beside_champion
from validation.data_profile import gather
from validation.drift import profile
from validation.expectations import Rule, rules

Rows = list[dict[str, Any]]
MISMATCHED, NEAR, PLACEHOLDER = 0.02, 0.03, 40  # shares of products, and products


def encoded(image: Image.Image, form: str = "JPEG", quality: int = 95) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, quality=quality)
    return stream.getvalue()


def cropped(image: Image.Image, share: float = 0.02) -> Image.Image:
    width, height = image.size
    return image.crop(
        tuple(
            round(edge) for edge in (share * width, share * height, (1 - share) * width, (1 - share) * height)
        )
    )


FORMS: dict[str, Callable[[Image.Image], bytes]] = {
    "as JPEG of quality 60": lambda image: encoded(image, quality=60),
    "as WebP of quality 60": lambda image: encoded(image, "WEBP", 60),
    "half as large": lambda image: encoded(image.resize((image.width // 2, image.height // 2))),
    "5 % brighter": lambda image: encoded(ImageEnhance.Brightness(image).enhance(1.05)),
    "2 % cropped on each side": lambda image: encoded(cropped(image)),
}


def plant(tables: dict[str, Rows], seed: int) -> dict[str, dict[str, str]]:
    """Put defects into the rows of a data set.

    Returns:
        rule → what it ought to find, each with its kind.
    """
    chance = random.Random(seed)  # noqa: S311 - repeatable, and no secret
    products = {row["product_id"]: row for row in tables["products"]}
    split = {q["query_id"]: q["split"] for q in tables["queries"] if q["judged_by"] == DERIVED}
    targets: dict[str, set[str]] = {}
    for row in tables["judgements"]:
        if row["grade"] == EXACT and row["query_id"] in split:
            targets.setdefault(row["product_id"], set()).add(split[row["query_id"]])
    seen = [key for key, row in products.items() if row["image"]]
    asked = [key for key in seen if key in targets]
    others = [key for key in seen if key not in targets]
    chance.shuffle(asked)
    chance.shuffle(others)
    test = [query for query, side in split.items() if side == "test"]
    train = [query for query, side in split.items() if side == "train"]

    def elsewhere(key: str) -> str:
        """A query of a split that the product is no target of."""
        return chance.choice(train if "train" not in targets[key] else test)

    truth: dict[str, dict[str, str]] = {
        name: {} for name in ("mismatched", "near_duplicates", "leaked_targets")
    }
    hidden = [others.pop() for _ in range(PLACEHOLDER)]
    none = {"bytes": encoded(Image.linear_gradient("L").convert("RGB"), "PNG"), "path": None}
    for key in hidden:
        products[key]["image"] = none
    truth["placeholders"] = dict.fromkeys(hidden, "a placeholder")
    truth["mismatched"] |= dict.fromkeys(hidden, "a placeholder")

    wrong = chance.sample(others, round(MISMATCHED * len(seen)))
    pictures = [products[key]["image"] for key in wrong]
    for key, picture in zip(wrong, pictures[1:] + pictures[:1], strict=True):
        products[key]["image"] = picture
    truth["mismatched"] |= dict.fromkeys(wrong, "another product's picture")

    leaked = asked.pop()
    tables["judgements"].append(
        {"query_id": (query := elsewhere(leaked)), "product_id": leaked, "grade": EXACT}
    )
    for side in {*targets[leaked], split[query]}:
        truth["leaked_targets"][f"{leaked} ({side})"] = "an exact match in two splits"

    for number in range(round(NEAR * len(products))):
        original, form = asked.pop(), list(FORMS)[number % len(FORMS)]
        copy = products[original] | {"product_id": f"{original}-again"}
        copy["title"] = f"{copy['title']}, again"
        copy["image"] = {"bytes": FORMS[form](decode(copy["image"]["bytes"])), "path": None}
        tables["products"].append(copy)
        query = elsewhere(original)
        tables["judgements"].append({"query_id": query, "product_id": copy["product_id"], "grade": EXACT})
        for target in [f"{copy['product_id']} ({split[query]})"] + [
            f"{original} ({s})" for s in targets[original]
        ]:
            truth["near_duplicates"][target] = form
    return truth


def broken(rule: Rule, frame: pd.DataFrame) -> set[str]:
    """The rows that break a rule, by their first column."""
    values = frame[rule.column]
    if rule.expect is gxe.ExpectColumnValuesToBeNull:
        bad = values.notna()
    else:
        low, high = (rule.more.get(end, values) for end in ("min_value", "max_value"))
        bad = ((values < low) | (values > high)).fillna(False)
    return set(frame[bad.to_numpy(bool)].iloc[:, 0])


def main(data: Path, seed: int, page: Path | None) -> None:
    tables = {name: store.read(data, name).to_pylist() for name in ("products", "queries", "judgements")}
    truth = plant(tables, seed)
    params = ValidateParams(model_name="product-search", compared=100_000)
    with tempfile.TemporaryDirectory() as folder:
        planted = Path(folder) / "data"
        for name, rows in tables.items():
            with store.TableWriter(planted, name) as writer:
                for row in rows:
                    writer.write(row)
        frames: dict[str, pd.DataFrame] = gather(planted, Limits())
        beside = beside_champion(planted, profile(planted, params.compared), params)
        if beside is None:
            sys.exit("there is no champion; promote a version first")
        frames |= beside.frames()
        if page:
            beside.write(page, planted, params)
    told, kinds = [], []
    for name, wanted in truth.items():
        (rule,) = (one for one in rules(params) if one.name == name)
        found = broken(rule, frames[rule.frame])
        right = found & set(wanted)
        precision = f"{len(right) / len(found):.3f}" if found else "–"
        told.append(
            [name, f"{len(wanted):,}", f"{len(found):,}", precision, f"{len(right) / len(wanted):.3f}"]
        )
        for kind, count in Counter(wanted.values()).items():
            share = sum(wanted[one] == kind for one in right) / count
            kinds.append([name, kind, f"{count:,}", f"{share:.3f}"])
    print(table([["rule", "planted", "found", "precision", "recall"], *told]))
    print()
    print(table([["rule", "kind", "planted", "recall"], *kinds]))


if __name__ == "__main__":
    asked = dict(enumerate(sys.argv[1:]))
    main(Path(asked.get(0, "data")), int(asked.get(1, 0)), Path(asked[2]) if 2 in asked else None)
