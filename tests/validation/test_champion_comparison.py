"""The comparison of a data set with the champion's, and its page."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest

from components.params import ValidateParams
from validation.champion_comparison import ChampionComparison, read_thumbnails
from validation.drift import Drift
from validation.expectations import Inspection, rules

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

PARAMS = ValidateParams(model_name="product-search")


def drift(name: str, index: float, p: float = 0.0) -> Drift:
    shares = np.array([0.25, 0.75])
    return Drift(name, ["low", "high"], shares, shares[::-1], index, p)


def make_comparison(embeddings: float, p: float = 0.0, match: float = 0.1) -> ChampionComparison:
    drifts = [drift("prices", 0.02, 0.5), drift("embeddings", embeddings, p)]
    matches = pa.table({"product_id": [f"p{n}" for n in range(6)], "match": [match] * 6})
    return ChampionComparison("3", drifts, matches, PARAMS.max_drift)


def mismatched(comparison: ChampionComparison) -> tuple[int, bool]:
    """How many products the rule counts, and whether it holds."""
    inspection = Inspection(rules(PARAMS))
    inspection.check(comparison.frames())
    (finding,) = (finding for finding in inspection.findings if finding.rule == "mismatched")
    return finding.count, finding.passed


@pytest.mark.parametrize(
    ("index", "p", "counted"), [(0.2, 0.0, 6), (4.9, 0.5, 6), (0.26, 0.0, 0), (4.9, 0.0, 0)]
)
def test_mismatches_count_only_where_the_champion_knows_such_products(
    index: float, p: float, counted: int, tiny_data: Path, tmp_path: Path
) -> None:
    comparison = make_comparison(index, p)
    assert mismatched(comparison) == (counted, counted == 0)
    assert comparison.summary()["reliable"] == (counted > 0)
    comparison.write(tmp_path / "champion.html", tiny_data, PARAMS)
    page = (tmp_path / "champion.html").read_text()
    assert ("Not reliable here, so none is counted" in page) == (counted == 0)
    assert page.count("data:image/jpeg") == (6 if counted else 0)


def test_thumbnails_of_products_with_and_without_a_picture(tiny_data: Path) -> None:
    thumbnails = read_thumbnails(tiny_data, ["p1", "p11", "unknown"])
    assert set(thumbnails) == {"p1", "p11"}
    assert str(thumbnails["p1"][1]).startswith("data:image/jpeg;base64,")
    assert thumbnails["p11"] == ("Plum shirt", None)


@pytest.mark.parametrize("embeddings", [0.02, 4.9])
def test_everybody_can_use_the_page(
    browser: "Chrome",
    axe: Callable[[], list[str]],
    width: int,
    embeddings: float,
    tiny_data: Path,
    tmp_path: Path,
    requested: Callable[[], list[str]],
) -> None:
    make_comparison(embeddings).write(tmp_path / "champion.html", tiny_data, PARAMS)
    browser.get((tmp_path / "champion.html").as_uri())
    assert axe() == []
    assert requested() == []
    assert browser.execute_script("const d = document.documentElement; return d.scrollWidth <= d.clientWidth")
    bars = browser.execute_script(
        "return [...document.querySelectorAll('.plot')].map(plot => plot.getBoundingClientRect().width)"
    )
    assert len(bars) == 2 and min(bars) > 200, json.dumps(bars)
