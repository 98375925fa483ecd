"""Every published format: small files in the published schema, and real samples where they are available."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from shop_exports import EXPORTS

from catalog import store
from catalog.queries import add_derived_queries
from catalog.schema import DataError
from catalog.sources import SOURCES, import_data
from components.params import ValidateParams
from components.validate import validate

Written = Callable[[Path, Callable[..., bytes]], dict[str, Any]]
WORDS = [
    "oak",
    "steel",
    "linen",
    "glass",
    "velvet",
    "marble",
    "rattan",
    "brass",
    "cotton",
    "walnut",
    "ceramic",
    "iron",
]


def lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


# Each function writes a small data set in its published schema (see the importer's docstring), and returns the expected
# counts.


def esci(src: Path, png: Callable[..., bytes]) -> dict[str, Any]:
    products = [
        {
            "product_id": f"B{n}",
            "product_title": f"{word} chair",
            "product_description": None,
            "product_bullet_point": word,
        }
        | {"product_brand": "Acme", "product_color": "red", "product_locale": locale}
        for n, word in enumerate(WORDS)
        for locale in ("us", "es")
    ]
    examples = [
        {
            "example_id": 20 * q + p,
            "query": f"{WORDS[q]} seat",
            "query_id": q,
            "product_id": f"B{(q + p) % 12}",
        }
        | {"product_locale": "us", "esci_label": "ESCI"[p], "small_version": int(q < 10), "large_version": 1}
        | {"split": "train" if q < 8 else "test"}
        for q in range(12)
        for p in range(4)
    ]
    examples.append(examples[0] | {"example_id": 999, "product_locale": "es"})
    src.mkdir()
    for name, rows in (("products", products), ("examples", examples)):
        pq.write_table(pa.Table.from_pylist(rows), src / f"shopping_queries_dataset_{name}.parquet")
    return {"counts": (12, 10, 40)}


def wands(src: Path, png: Callable[..., bytes]) -> dict[str, Any]:
    head = (
        "product_id\tproduct_name\tproduct_class\tcategory hierarchy\tproduct_description\tproduct_features\t"
    )
    rows = [
        f"{n}\t{word} table\tTables\tFurniture / Tables / {word}\t{word}\tcolor : red|material:{word}\t15.0\t4.5\t9"
        for n, word in enumerate(WORDS)
    ]
    text(src / "product.csv", "\n".join([head + "rating_count\taverage_rating\treview_count", *rows]))
    queries = [f"{n}\t{word} furniture\tTables" for n, word in enumerate(WORDS)]
    text(src / "query.csv", "\n".join(["query_id\tquery\tquery_class", *queries]))
    labels = [
        f"{3 * n + k}\t{n}\t{(n + k) % 12}\t{label}"
        for n in range(12)
        for k, label in enumerate(("Exact", "Partial", "Irrelevant"))
    ]
    text(src / "label.csv", "\n".join(["id\tquery_id\tproduct_id\tlabel", *labels]))
    return {"counts": (12, 12, 36)}


def home_depot(src: Path, png: Callable[..., bytes]) -> dict[str, Any]:
    pairs = [
        f'{3 * n + k},{100 + (n + k) % 12},"{WORDS[(n + k) % 12]} plank, 2 m",{word} board,{relevance}'
        for n, word in enumerate(WORDS)
        for k, relevance in enumerate((3, 2.33, 1))
    ]
    text(
        src / "train.csv", "\n".join(['"id","product_uid","product_title","search_term","relevance"', *pairs])
    )
    described = [
        f'{100 + n},"a plank of {word}"'
        for n, word in enumerate([*WORDS[1:], "elsewhere", "nowhere"], start=1)
    ]
    text(src / "product_descriptions.csv", "\n".join(['"product_uid","product_description"', *described]))
    attributes = ['100,"MFG Brand Name","Acme"', '100,"Bullet01","sturdy"', "101,Color Family,Brown"]
    text(src / "attributes.csv", "\n".join(['"product_uid","name","value"', *attributes]))
    return {"counts": (12, 12, 36)}


def crowdflower(src: Path, png: Callable[..., bytes]) -> dict[str, Any]:
    pairs = [
        f'{4 * n + k},"{word} lamp","{WORDS[(n + k) % 12]} lamp","it shines, says {k}",{4 - k},0.5'
        for n, word in enumerate(WORDS)
        for k in range(4)
    ]
    head = '"id","query","product_title","product_description","median_relevance","relevance_variance"'
    text(src / "train.csv", "\n".join([head, *pairs]))
    return {"counts": (48, 12, 48)}


def beir(src: Path, png: Callable[..., bytes]) -> dict[str, Any]:
    lines(
        src / "corpus.jsonl",
        [{"_id": f"d{n}", "title": w, "text": f"of {w}", "metadata": {}} for n, w in enumerate(WORDS)],
    )
    lines(
        src / "queries.jsonl",
        [{"_id": f"q{n}", "text": f"what is {w}", "metadata": {}} for n, w in enumerate(WORDS)],
    )
    for name, numbers in (("train", range(8)), ("test", range(8, 12))):
        judgements = [f"q{n}\td{(n + k) % 12}\t{2 - k}" for n in numbers for k in range(3)]
        text(src / "qrels" / f"{name}.tsv", "\n".join(["query-id\tcorpus-id\tscore", *judgements]))
    return {"counts": (12, 12, 36)}


def amazon(src: Path, year: int) -> None:
    meta, reviews = [], []
    for n, word in enumerate(WORDS):
        for k in range(3):
            asin = f"B{n:02}{k}"
            if year == 2018:
                product = {
                    "category": ["Home", word],
                    "brand": "Acme",
                    "title": f"{word} {k}",
                    "description": [word],
                }
                meta.append(
                    product
                    | {"feature": [], "asin": asin, "price": "$12.50", "imageURL": [], "imageURLHighRes": []}
                )
                reviews.append(
                    {"overall": 5.0 - 2 * k, "asin": asin, "reviewerID": "A1", "reviewText": "fine"}
                )
            else:
                product = {
                    "main_category": "Home",
                    "categories": ["Home", word],
                    "store": "Acme",
                    "title": f"{word} {k}",
                }
                product |= {
                    "features": [word],
                    "description": [],
                    "price": 12.5,
                    "images": [],
                    "videos": [],
                    "details": {},
                }
                meta.append(product | {"parent_asin": asin})
                reviews.append(
                    {"rating": 5.0 - 2 * k, "asin": asin + "-1", "parent_asin": asin, "user_id": "A1"}
                )
    ending = ".json.gz" if year == 2018 else ".jsonl"
    lines(src / f"meta_Home{ending}", meta)
    lines(src / f"Home{'_5' if year == 2018 else ''}{ending}", reviews)


def amazon_2018(src: Path, png: Callable[..., bytes]) -> dict[str, Any]:
    amazon(src, 2018)
    return {"counts": (36, 24, None), "judged_by": "implicit"}  # each material, with and without the brand


def amazon_2023(src: Path, png: Callable[..., bytes]) -> dict[str, Any]:
    amazon(src, 2023)
    return {"counts": (36, 24, None), "judged_by": "implicit"}


def coco(src: Path, png: Callable[..., bytes]) -> dict[str, Any]:
    images = [{"id": n, "file_name": f"{n:012}.jpg", "width": 48, "height": 40} for n in range(12)]
    captions = [
        {"id": 10 * n + k, "image_id": n, "caption": f"a {w} thing {k}"}
        for n, w in enumerate(WORDS)
        for k in range(3)
    ]
    content = {"info": {}, "licenses": [], "images": images, "annotations": captions}
    text(src / "annotations" / "captions_val2017.json", json.dumps(content))
    (src / "val2017").mkdir()
    for image in images[1:]:
        (src / "val2017" / image["file_name"]).write_bytes(png(image["id"]))
    return {"counts": (12, 24, 24), "pictures": 11}


def visual_genome(src: Path, png: Callable[..., bytes]) -> dict[str, Any]:
    address = "https://host/path/VG_100K/{}.jpg"
    data = [{"image_id": n, "url": address.format(n), "width": 48, "height": 40} for n in range(12)]
    text(src / "image_data.json", json.dumps(data))
    item = {"names": ["vase"], "w": 9, "h": 9, "x": 0, "y": 0, "object_id": 1}
    objects = [
        {"image_id": n, "objects": [item, item | {"names": [w], "w": 90}]} for n, w in enumerate(WORDS)
    ]
    text(src / "objects.json", json.dumps(objects))
    text(
        src / "attributes.json",
        json.dumps([{"image_id": n, "attributes": [item | {"attributes": ["tall"]}]} for n in range(12)]),
    )
    regions = [
        {
            "id": n,
            "regions": [
                {"region_id": 2 * n + k, "image_id": n, "phrase": f"{w} number {k}"} for k in range(2)
            ],
        }
        for n, w in enumerate(WORDS)
    ]
    text(src / "region_descriptions.json", json.dumps(regions))
    (src / "VG_100K").mkdir()
    for image in data:
        (src / "VG_100K" / f"{image['image_id']}.jpg").write_bytes(png(image["image_id"]))
    return {"counts": (12, 24, 24), "pictures": 12}


def abo(src: Path, png: Callable[..., bytes]) -> dict[str, Any]:
    rows = [
        {
            "item_id": f"B{n}",
            "item_name": [
                {"language_tag": "de_DE", "value": "Stuhl"},
                {"language_tag": "en_US", "value": f"{w} chair"},
            ],
            "brand": [{"language_tag": "en_US", "value": f"Acme {n % 4}"}],
            "color": [{"language_tag": "en_US", "value": "Red", "standardized_values": ["Red"]}],
            "product_type": [{"value": "CHAIR"}],
            "node": [{"node_id": 1, "node_name": "/Home/Chairs"}],
            "main_image_id": f"i{n}",
        }
        for n, w in enumerate(WORDS)
    ]
    lines(src / "listings" / "metadata" / "listings_0.json.gz", rows)
    table = src / "images" / "metadata" / "images.csv.gz"
    table.parent.mkdir(parents=True)
    table.write_bytes(
        gzip.compress(
            (
                "image_id,height,width,path\n" + "".join(f"i{n},40,48,ab/i{n}.jpg\n" for n in range(12))
            ).encode()
        )
    )
    (src / "images" / "small" / "ab").mkdir(parents=True)
    for n in range(12):
        (src / "images" / "small" / "ab" / f"i{n}.jpg").write_bytes(png(n))
    return {"counts": (12, 0, 0), "pictures": 12}


FORMATS: dict[str, Written] = {
    write.__name__: write
    for write in (
        esci,
        wands,
        home_depot,
        crowdflower,
        beir,
        amazon_2018,
        amazon_2023,
        coco,
        visual_genome,
        abo,
    )
}


def test_every_format_is_tried() -> None:
    of_shops = {form for form, _ in EXPORTS.values()}  # see test_shops.py
    assert FORMATS.keys() | of_shops | {"fashion", "table"} == SOURCES.keys()


@pytest.mark.parametrize("name", FORMATS)
def test_a_published_format(name: str, tmp_path: Path, png: Callable[..., bytes]) -> None:
    expected = FORMATS[name](tmp_path / "src", png)
    data = tmp_path / "data"
    counts = import_data(name, tmp_path / "src", data)
    for table, count in zip(("products", "queries", "judgements"), expected["counts"], strict=True):
        assert count in (None, counts[table])
        assert store.read_table(data, table).num_rows == counts[table]
    assert counts["rejected"] == 0 and not (data / "rejected.parquet").exists()
    products, queries = (
        store.read_table(data, "products").to_pylist(),
        store.read_table(data, "queries").to_pylist(),
    )
    assert sum(row["images"] is not None for row in products) == expected.get("pictures", 0)
    assert {row["judged_by"] for row in queries} <= {expected.get("judged_by", "human")}
    if not queries:  # only products; `python -m catalog queries` adds queries
        add_derived_queries(data, tmp_path / "derived")
        data = tmp_path / "derived"
    validate(data, ValidateParams(), tmp_path / "report")


def test_what_columns_become(tmp_path: Path, png: Callable[..., bytes]) -> None:
    for name in ("wands", "abo", "visual_genome", "home_depot", "amazon_2018"):
        FORMATS[name](tmp_path / name, png)
        import_data(name, tmp_path / name, tmp_path / "data" / name)
    imported = {p.name: store.read_table(p, "products").to_pylist() for p in (tmp_path / "data").iterdir()}
    assert (
        imported["wands"][0]["category"] == "Furniture/Tables/oak"
        and imported["wands"][0]["material"] == "oak"
    )
    assert imported["abo"][0]["title"] == "oak chair" and imported["abo"][0]["category"] == "Home/Chairs"
    assert imported["visual_genome"][0]["title"] == "oak, vase"
    queries = store.read_table(tmp_path / "data" / "visual_genome", "queries").to_pylist()
    assert [row["cluster"] for row in queries] == [row["query_id"].partition("-")[0] for row in queries]
    assert dict(imported["visual_genome"][0]["attributes"]) == {"vase": "tall"}
    assert {row["product_id"]: row["brand"] for row in imported["home_depot"]}["100"] == "Acme"
    assert (
        imported["amazon_2018"][0]["price"],
        imported["amazon_2018"][0]["currency"],
    ) == (12.5, "USD")
    assert imported["amazon_2018"][0]["category"] == "Home/oak"


def test_grades_of_reviews_follow_the_stars(tmp_path: Path, png: Callable[..., bytes]) -> None:
    amazon_2018(tmp_path / "src", png)
    import_data("amazon_2018", tmp_path / "src", tmp_path / "data")
    rows = store.read_table(tmp_path / "data", "queries").to_pylist()
    texts = {row["query_id"]: row["text"] for row in rows}
    grades = {
        (texts[row["query_id"]], row["product_id"]): row["grade"]
        for row in store.read_table(tmp_path / "data", "judgements").to_pylist()
    }
    assert [grades["oak", f"B00{k}"] for k in range(3)] == [3, 2, 2]  # 5, 3 and 1 stars
    assert {grade for (text, product), grade in grades.items() if text == "oak" and product[:3] != "B00"} == {
        0
    }


@pytest.mark.parametrize("name", FORMATS)
def test_another_folder_is_one_message(name: str, tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "readme.txt").write_text("hello")
    with pytest.raises(DataError, match=r"src: no "):
        import_data(name, tmp_path / "src", tmp_path / "data")
    assert {path.name for path in tmp_path.iterdir()} == {"src"}


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "source", "options", "counts"),
    [
        ("crowdflower", "crowdflower.parquet", {}, (9913, 261, 10158)),
        ("amazon_2018", "formats/amazon_2018", {}, (1547, None, None)),
        ("coco", "formats/coco", {"captions": "captions_val2017.json"}, (5000, None, 25014 - 5000)),
        ("coco", "formats/coco", {"captions": "captions_val2017_mini.json"}, (79, None, None)),
        ("visual_genome", "formats/visual_genome", {}, (5, None, 1278)),
    ],
)
@pytest.mark.slow
def test_the_real_samples(
    name: str,
    source: str,
    options: dict[str, Any],
    counts: tuple[int | None, ...],
    real_data: Path,
    tmp_path: Path,
) -> None:
    """Counts are those of the source; judgements include rejected ones, because pairs can be judged twice."""
    data = tmp_path / "data"
    imported = import_data(name, real_data / source, data, **options)
    assert counts[0] == imported["products"] and counts[1] in (None, imported["queries"])
    assert counts[2] in (None, imported["judgements"] + imported["rejected"])
    # its few pictures stand for others
    validate(
        data, ValidateParams(max_duplicate_images=1, severity={"flat_images": "warning"}), tmp_path / "report"
    )


@pytest.mark.real
def test_the_one_record_of_2023(real_data: Path, tmp_path: Path) -> None:
    assert (
        import_data("amazon_2023", real_data / "formats" / "amazon_2023", tmp_path / "data")["products"] == 1
    )
    (product,) = store.read_table(tmp_path / "data", "products").to_pylist()
    assert product["product_id"] == "B01CUPMQZE" and product["brand"] == "Howard Products"
    assert product["category"] == "All Beauty" and product["price"] is None
