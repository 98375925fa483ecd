"""Precision and recall of `validate` on planted defects: `python bench/defects.py [DATA [SEED [PAGE]]] > TABLE.md`.

The check of the pictures needs a champion in MLflow: `make demo`, then `python -m registry promote 1`. PAGE is the file
for the page of this check.
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
from vitrine_judge.tables import format_table

from catalog import store
from catalog.images import Limits, decode
from catalog.schema import DERIVED, EXACT, main_picture
from components.params import ValidateParams
from validation.champion_comparison import compare_with_champion
from validation.data_profile import profile_data
from validation.drift import profile_products
from validation.expectations import Rule, rules

Rows = list[dict[str, Any]]
MISMATCHED, NEAR, PLACEHOLDER = 0.02, 0.03, 40  # shares of products, and products


def encode(image: Image.Image, form: str = "JPEG", quality: int = 95) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, quality=quality)
    return stream.getvalue()


def crop(image: Image.Image, share: float = 0.02) -> Image.Image:
    width, height = image.size
    return image.crop(
        tuple(
            round(edge) for edge in (share * width, share * height, (1 - share) * width, (1 - share) * height)
        )
    )


FORMS: dict[str, Callable[[Image.Image], bytes]] = {
    "as JPEG of quality 60": lambda image: encode(image, quality=60),
    "as WebP of quality 60": lambda image: encode(image, "WEBP", 60),
    "half as large": lambda image: encode(image.resize((image.width // 2, image.height // 2))),
    "5 % brighter": lambda image: encode(ImageEnhance.Brightness(image).enhance(1.05)),
    "2 % cropped on each side": lambda image: encode(crop(image)),
}


def plant(tables: dict[str, Rows], seed: int) -> dict[str, dict[str, str]]:
    """Put defects into the rows of a data set.

    Returns:
        rule → id of each planted defect → kind of the defect.
    """
    rng = random.Random(seed)  # noqa: S311 - repeatable, and no secret
    products = {row["product_id"]: row for row in tables["products"]}
    split = {q["query_id"]: q["split"] for q in tables["queries"] if q["judged_by"] == DERIVED}
    targets: dict[str, set[str]] = {}
    for row in tables["judgements"]:
        if row["grade"] == EXACT and row["query_id"] in split:
            targets.setdefault(row["product_id"], set()).add(split[row["query_id"]])
    pictured = [key for key, row in products.items() if row["images"]]
    judged = [key for key in pictured if key in targets]
    unjudged = [key for key in pictured if key not in targets]
    rng.shuffle(judged)
    rng.shuffle(unjudged)
    test = [query for query, side in split.items() if side == "test"]
    train = [query for query, side in split.items() if side == "train"]

    def query_of_other_split(key: str) -> str:
        """A query of a split in which the product is not a target."""
        return rng.choice(train if "train" not in targets[key] else test)

    truth: dict[str, dict[str, str]] = {
        name: {} for name in ("mismatched", "near_duplicates", "leaked_targets")
    }
    hidden = [unjudged.pop() for _ in range(PLACEHOLDER)]
    placeholder = {"bytes": encode(Image.linear_gradient("L").convert("RGB"), "PNG"), "path": None}
    for key in hidden:
        products[key]["images"] = [placeholder]
    truth["placeholders"] = dict.fromkeys(hidden, "a placeholder")
    truth["mismatched"] |= dict.fromkeys(hidden, "a placeholder")

    wrong = rng.sample(unjudged, round(MISMATCHED * len(pictured)))
    pictures = [products[key]["images"] for key in wrong]
    for key, picture in zip(wrong, pictures[1:] + pictures[:1], strict=True):
        products[key]["images"] = picture
    truth["mismatched"] |= dict.fromkeys(wrong, "another product's picture")

    leaked = judged.pop()
    tables["judgements"].append(
        {"query_id": (query := query_of_other_split(leaked)), "product_id": leaked, "grade": EXACT}
    )
    for side in {*targets[leaked], split[query]}:
        truth["leaked_targets"][f"{leaked} ({side})"] = "an exact match in two splits"

    for number in range(round(NEAR * len(products))):
        original, form = judged.pop(), list(FORMS)[number % len(FORMS)]
        copy = products[original] | {"product_id": f"{original}-again"}
        copy["title"] = f"{copy['title']}, again"
        copy["images"] = [{"bytes": FORMS[form](decode(main_picture(copy))), "path": None}]
        tables["products"].append(copy)
        query = query_of_other_split(original)
        tables["judgements"].append({"query_id": query, "product_id": copy["product_id"], "grade": EXACT})
        for target in [f"{copy['product_id']} ({split[query]})"] + [
            f"{original} ({s})" for s in targets[original]
        ]:
            truth["near_duplicates"][target] = form
    return truth


def failing_rows(rule: Rule, frame: pd.DataFrame) -> set[str]:
    """The first column of the rows that fail a rule."""
    values = frame[rule.column]
    if rule.expectation is gxe.ExpectColumnValuesToBeNull:
        bad = values.notna()
    else:
        low, high = (rule.arguments.get(end, values) for end in ("min_value", "max_value"))
        bad = ((values < low) | (values > high)).fillna(False)
    return set(frame[bad.to_numpy(bool)].iloc[:, 0])


def main(data: Path, seed: int, page: Path | None) -> None:
    tables = {
        name: store.read_table(data, name).to_pylist() for name in ("products", "queries", "judgements")
    }
    truth = plant(tables, seed)
    params = ValidateParams(model_name="product-search", compared=100_000)
    with tempfile.TemporaryDirectory() as folder:
        planted = Path(folder) / "data"
        for name, rows in tables.items():
            with store.TableWriter(planted, name) as writer:
                for row in rows:
                    writer.write(row)
        frames: dict[str, pd.DataFrame] = profile_data(planted, Limits())
        comparison = compare_with_champion(planted, profile_products(planted, params.compared), params)
        if comparison is None:
            sys.exit("there is no champion; promote a version first")
        frames |= comparison.frames()
        if page:
            comparison.write(page, planted, params)
    totals, kinds = [], []
    for name, planted_kinds in truth.items():
        (rule,) = (rule for rule in rules(params) if rule.name == name)
        detected = failing_rows(rule, frames[rule.frame])
        correct = detected & set(planted_kinds)
        precision = f"{len(correct) / len(detected):.3f}" if detected else "–"
        recall = f"{len(correct) / len(planted_kinds):.3f}"
        totals.append([name, f"{len(planted_kinds):,}", f"{len(detected):,}", precision, recall])
        for kind, count in Counter(planted_kinds.values()).items():
            share = sum(planted_kinds[key] == kind for key in correct) / count
            kinds.append([name, kind, f"{count:,}", f"{share:.3f}"])
    print(format_table([["rule", "planted", "found", "precision", "recall"], *totals]))
    print()
    print(format_table([["rule", "kind", "planted", "recall"], *kinds]))


if __name__ == "__main__":
    arguments = dict(enumerate(sys.argv[1:]))
    main(
        Path(arguments.get(0, "data")),
        int(arguments.get(1, 0)),
        Path(arguments[2]) if 2 in arguments else None,
    )
