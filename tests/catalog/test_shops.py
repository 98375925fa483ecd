"""Exports of shops as they are published: variants, galleries, categories, prices, drafts."""

import zipfile
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from shop_exports import EXPORTS, TITLES

from catalog import store
from catalog.__main__ import main
from catalog.download import Downloader
from catalog.files import Files
from catalog.galleries import get_pictures, split_names
from catalog.queries import add_derived_queries
from catalog.shops import merge_galleries, select_price, sort_options, split_list
from catalog.sources import import_data
from components.params import ValidateParams
from components.validate import validate


def import_export(name: str, folder: Path, png: Callable[..., bytes]) -> dict[str, dict[str, Any]]:
    """Write and import an export; returns its products by id."""
    form, write = EXPORTS[name]
    export = write(folder / "source", png)
    import_data(form, export.source, folder / "data", **export.options)
    rows = store.read_table(folder / "data", "products").to_pylist()
    return {row["product_id"]: row for row in rows}


def paths(product: dict[str, Any]) -> list[str]:
    return [picture["path"] for picture in product["images"] or ()]


@pytest.mark.parametrize("name", EXPORTS)
def test_an_export_is_imported_whole_and_is_valid(
    name: str, tmp_path: Path, png: Callable[..., bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    form, write = EXPORTS[name]
    export, data = write(tmp_path / "source", png), tmp_path / "data"
    options = [word for key, value in export.options.items() for word in (f"--{key}", str(value))]
    assert main(["import", form, str(export.source), "--out", str(data), *options]) == 0, (
        capsys.readouterr().err
    )
    products = store.read_table(data, "products").to_pylist()
    pictures = {picture["bytes"] for product in products for picture in product["images"]}
    rejected = pq.read_table(data / "rejected.parquet").to_pylist() if export.left_out else []
    assert (len({row["group_id"] for row in products}), len(products)) == (export.groups, export.rows)
    assert len(pictures) == export.pictures
    assert len(rejected) == export.left_out and {row["column"] for row in rejected} <= {None}
    assert all(
        row["price"] and row["currency"] and row["brand"] == "Acme" for row in products if form != "akeneo"
    )
    assert all(
        "<" not in row["description"] and "&amp;" not in row["description"]
        for row in products
        if row["description"]
    )
    add_derived_queries(data, tmp_path / "derived")
    validate(tmp_path / "derived", ValidateParams(), tmp_path / "report")


class TestShopify:
    def test_a_variant_has_its_picture_and_those_of_no_other(
        self, tmp_path: Path, png: Callable[..., bytes]
    ) -> None:
        products = import_export("shopify", tmp_path, png)
        assert paths(products["M0red"]) == ["oak-red.png", "oak-1.png", "oak-2.png"]
        assert paths(products["M0blue"]) == ["oak-blue.png", "oak-1.png", "oak-2.png"]
        assert paths(products["M5"]) == ["marble-1.png", "marble-2.png"]

    def test_columns(self, tmp_path: Path, png: Callable[..., bytes]) -> None:
        products = import_export("shopify", tmp_path, png)
        red, other = products["M0red"], products["M5"]
        assert (red["group_id"], red["color"], red["title"]) == ("oak-mug", "red", TITLES["oak"])
        assert red["category"] == "Home & Garden/Kitchen-Dining/Mugs"
        assert (red["available"], other["available"]) == (False, True)
        assert (other["color"], other["price"], other["currency"]) == ("white", 12.5, "USD")
        assert ("tags", "mug, gift") in other["attributes"]

    def test_json(self, tmp_path: Path, png: Callable[..., bytes]) -> None:
        products = import_export("shopify, JSON", tmp_path, png)
        red, blue = products["1000"], products["2000"]
        assert (red["group_id"], red["color"], blue["color"]) == ("oak-mug", "red", "blue")
        assert (red["available"], blue["available"]) == (True, False)
        assert paths(red) == ["oak-3.png", "oak-1.png", "oak-2.png"] and paths(blue) == [
            "oak-1.png",
            "oak-2.png",
        ]
        assert red["updated_at"].isoformat() == "2026-03-01T15:00:00+00:00"


def test_woocommerce(tmp_path: Path, png: Callable[..., bytes]) -> None:
    products = import_export("woocommerce", tmp_path, png)
    red, linen = products["id:100"], products["woo-linen"]
    assert "woo-oak" not in products and red["group_id"] == "woo-oak"
    assert products["id:110"]["group_id"] == "id:11"
    assert (red["color"], red["material"], red["price"]) == ("Red", "oak, solid, cork", 13.5)
    assert paths(red) == ["oak-Red.png", "oak-1.png", "oak-2.png"]
    assert linen["category"] == "Home/Kitchen & Dining/Mugs"
    assert linen["description"].endswith("Second line") and "\\n" not in linen["description"]
    assert [products[f"woo-{word}"]["available"] for word in ("glass", "linen")] == [False, True]
    assert [products[f"woo-{word}"]["price"] for word in ("velvet", "marble")] == [
        9.9,
        12.5,
    ]  # on sale, no more


def test_magento(tmp_path: Path, png: Callable[..., bytes]) -> None:
    products = import_export("magento", tmp_path, png)
    red, steel = products["MG-oak-Red"], products["MG-steel"]
    assert "MG-oak" not in products and red["group_id"] == "MG-oak"
    assert (red["color"], red["material"], red["price"]) == ("Red", "oak, solid", 13.5)
    assert paths(red) == ["oak-Red.png", "oak-1.png", "oak-2.png"]
    assert steel["category"] == "Home/Kitchen-Dining/Mugs" == red["category"]
    assert ("use", "Coffee, Tea") in steel["attributes"] and steel["title"] == TITLES["steel"]
    assert products["MG-glass"]["available"] is False and products["MG-velvet"]["price"] == 9.9
    assert steel["updated_at"].isoformat() == "2026-03-01T18:27:00+00:00"


@pytest.mark.parametrize(("name", "language"), [("TSV", None), ("RSS", "en"), ("Atom", "en")])
def test_google_merchant(name: str, language: str | None, tmp_path: Path, png: Callable[..., bytes]) -> None:
    products = import_export(f"google_merchant, {name}", tmp_path, png)
    red, blue = products["G0"], products["G0b"]
    assert (red["group_id"], blue["group_id"], products["G1"]["group_id"]) == ("oak", "oak", "G1")
    assert (red["price"], products["G1"]["price"], red["currency"]) == (9.9, 12.5, "EUR")
    assert (red["available"], blue["available"], red["language"]) == (True, False, language)
    assert paths(blue) == ["oak-b.png", "oak-2.png", "oak-3.png"]
    assert red["category"] == "Home/Kitchen-Dining/Mugs" and red["description"] == "A oak mug & saucer."


def test_prestashop(tmp_path: Path, png: Callable[..., bytes]) -> None:
    products = import_export("prestashop", tmp_path, png)
    red, blue, steel = products["PS-oak-Red"], products["PS-oak-Blue"], products["2"]
    assert (red["group_id"], red["color"], red["price"], blue["price"]) == ("1", "Red", 14.0, 12.0)
    assert paths(red) == ["oak-1.png", "oak-2.png"] and paths(blue) == ["oak-2.png", "oak-1.png"]
    assert steel["category"] == "Kitchen/Mugs" and ("Height", "9 cm, 3.5 in") in steel["attributes"]
    assert [products[key]["price"] for key in ("5", "6")] == [10.0, 12.5]  # reduced, no more
    assert [products[key]["available"] for key in ("4", "2")] == [False, True]


def test_akeneo(tmp_path: Path, png: Callable[..., bytes]) -> None:
    products = import_export("akeneo", tmp_path, png)
    red, linen, glass = products["AK-oak-red"], products["AK-linen"], products["AK-glass"]
    assert (red["group_id"], red["title"], red["brand"], red["color"]) == (
        "oak",
        TITLES["oak"],
        "Acme",
        "red",
    )
    assert paths(red) == ["red.png", "oak.png"] and red["price"] == 12.5
    assert linen["category"] == "Kitchen-Dining/Mugs" and linen["language"] == "en"
    assert ("weight", "350 GRAM") in linen["attributes"] and linen["description"].startswith("A fine")
    assert (glass["title"], glass["language"], glass["price"], glass["currency"]) == (
        "glass-Becher",
        "de",
        14,
        "USD",
    )


class TestWhatExportsShare:
    @pytest.mark.parametrize(
        ("text", "names"),
        [
            ("a.jpg,b.jpg", ["a.jpg", "b.jpg"]),
            ("https://a/1.jpg, https://a/2.jpg", ["https://a/1.jpg", "https://a/2.jpg"]),
            ("https://a/w_3,h_2/1.jpeg,https://a/2?x=1,2", ["https://a/w_3,h_2/1.jpeg", "https://a/2?x=1,2"]),
            ("/b/a.png,/c/d.png", ["/b/a.png", "/c/d.png"]),
            ("", []),
        ],
    )
    def test_lists_of_pictures(self, text: str, names: list[str]) -> None:
        assert split_names(text) == names

    def test_lists_of_values(self) -> None:
        assert split_list(r"a\, b, c,, d") == ["a, b", "c", "d"]

    @pytest.mark.parametrize(
        ("sale", "start", "end", "price"),
        [
            ("9.90", "", "", "9.90"),
            ("9.90", "2026-01-01", "2026-12-31", "9.90"),
            ("9.90", "2026-06-02", "", "12"),
            ("9.90", "", "5/31/26", "12"),
            ("9.90", "2026-05-01T10:00:00+02:00", "", "9.90"),
            ("", "", "", "12"),
            ("0", "", "", "12"),
            ("soon", "", "", "12"),
        ],
    )
    def test_a_sale_counts_on_its_days(self, sale: str, start: str, end: str, price: str) -> None:
        assert select_price("12", sale, start, end, date(2026, 6, 1)) == price

    def test_options_have_names_in_any_language(self) -> None:
        columns = sort_options({"Farbe": "rot", "素材": "棉", "Size": "L", "Marke": "Acme", "empty": " "})
        assert columns == {
            **{"color": "rot", "material": "棉", "brand": "Acme"},
            "attributes": {"Farbe": "rot", "素材": "棉", "Size": "L", "Marke": "Acme"},
        }

    def test_paths_of_pictures(self, tmp_path: Path) -> None:
        names = ["/a/b.png", "a\\b.png", "//cdn.example/c.png", " d.png ", "", "https://cdn.example/c.png"]
        with Downloader(tmp_path / "downloads") as downloader:
            pictures = get_pictures(Files(tmp_path, downloader), names)
        assert [picture.name for picture in pictures] == ["b.png", "c.png", "d.png"]

    def test_a_gallery_leaves_out_the_pictures_of_other_variants(self) -> None:
        assert merge_galleries(["r"], ["a", "b", "r", "a"], ["r", "b"]) == ["r", "a"]


@pytest.mark.parametrize("form", ["shopify", "woocommerce", "magento", "google_merchant"])
def test_a_folder_is_one_message(form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "shop").mkdir()
    assert main(["import", form, str(tmp_path / "shop"), "--out", str(tmp_path / "data")]) == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    "form", ["shopify", "woocommerce", "magento", "google_merchant", "prestashop", "akeneo"]
)
def test_another_layout_is_one_message(form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "products.csv").write_text("artikel,bezeichnung\n1,Becher\n")
    assert main(["import", form, str(tmp_path / "products.csv"), "--out", str(tmp_path / "data")]) == 1
    error = capsys.readouterr().err
    assert "artikel, bezeichnung" in error and error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["products.csv"]


def test_a_zip_of_prestashop(tmp_path: Path, png: Callable[..., bytes]) -> None:
    _, write = EXPORTS["prestashop"]
    export = write(tmp_path / "source", png)
    with zipfile.ZipFile(tmp_path / "shop.zip", "w") as archive:
        for path in export.source.iterdir():
            archive.write(path, path.name)
    counts = import_data("prestashop", tmp_path / "shop.zip", tmp_path / "data", currency="EUR")
    assert (counts["products"], counts["rejected"]) == (13, 2)
