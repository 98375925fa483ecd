"""The columns of a data set, their types and their meaning.

A data set is a folder with one sub-folder of parquet files per table::

    data/products/*.parquet  queries/*.parquet  judgements/*.parquet  [satisfaction/*.parquet]  [retired/*.parquet]
"""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

# The struct that Hugging Face `datasets` reads as an image.
PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])

PRODUCTS = pa.schema(
    [
        pa.field("product_id", pa.string(), nullable=False),
        pa.field("title", pa.string(), nullable=False),
        ("description", pa.string()),
        ("category", pa.string()),  # a path, such as "clothing/shirt"
        ("brand", pa.string()),
        ("color", pa.string()),
        ("material", pa.string()),
        ("price", pa.float64()),  # the lowest, where variants differ
        ("max_price", pa.float64()),  # the highest; null if there is only one price
        ("currency", pa.string()),  # ISO 4217 code
        ("images", pa.list_(PICTURE)),  # in the shop's order; the first is the main picture
        ("video", pa.list_(PICTURE)),  # frames of a clip, in order
        ("attributes", pa.map_(pa.string(), pa.string())),
        ("group_id", pa.string()),  # equal for the variants of a product; null means a group of one
        ("available", pa.bool_()),  # in stock; null means unknown
        ("language", pa.string()),  # of the texts, ISO 639-1 code; null means unknown
        ("updated_at", pa.timestamp("us", tz="UTC")),
    ]
)

QUERIES = pa.schema(
    [
        pa.field("query_id", pa.string(), nullable=False),
        ("text", pa.string()),
        ("image", PICTURE),
        pa.field("split", pa.string(), nullable=False),
        ("segment", pa.string()),
        ("judged_by", pa.string()),  # one of `JUDGED_BY`; null means human
        ("frequency", pa.int64()),  # number of searches in some period; null means unknown
        ("cluster", pa.string()),  # template, product, session or user; null means a cluster of one query
    ]
)

JUDGEMENTS = pa.schema(
    [
        pa.field("query_id", pa.string(), nullable=False),
        pa.field("product_id", pa.string(), nullable=False),
        pa.field("grade", pa.int8(), nullable=False),
    ]
)

SATISFACTION = pa.schema(
    [
        pa.field("query_id", pa.string(), nullable=False),
        pa.field("model_version", pa.string(), nullable=False),
        pa.field("rating", pa.int8(), nullable=False),
        ("answered_at", pa.timestamp("us", tz="UTC")),
    ]
)

# Queries that are not there any more. `catalog.refresh` retires test queries for ever; `catalog.update` retires queries
# without an exact match until their text comes again.
RETIRED = pa.schema(
    [
        pa.field("query_id", pa.string(), nullable=False),
        ("text", pa.string()),
        ("targets", pa.list_(pa.string())),  # exact matches of a derived query
        ("split", pa.string()),  # to which the query may come back; null: never
        ("cluster", pa.string()),
    ]
)

TABLES = {
    "products": PRODUCTS,
    "queries": QUERIES,
    "judgements": JUDGEMENTS,
    "satisfaction": SATISFACTION,
    "retired": RETIRED,
}
OPTIONAL_TABLES = frozenset({"satisfaction", "retired"})

# Source of a query's judgements: people, shoppers' clicks and reviews, or the products' own attributes.
HUMAN, IMPLICIT, DERIVED = JUDGED_BY = ("human", "implicit", "derived")

SPLITS = ("train", "valid", "test")

# As in Amazon ESCI: exact, substitute, complement, irrelevant.
EXACT, SUBSTITUTE, COMPLEMENT, IRRELEVANT = 3, 2, 1, 0
GRADE_NAMES = {EXACT: "exact", SUBSTITUTE: "substitute", COMPLEMENT: "complement", IRRELEVANT: "irrelevant"}
GRADES = tuple(sorted(GRADE_NAMES))

# Gain of each grade, as in Amazon ESCI (Reddy et al., 2022).
GAINS = {EXACT: 1.0, SUBSTITUTE: 0.1, COMPLEMENT: 0.01, IRRELEVANT: 0.0}

# The columns that text search reads, most informative first.
TEXT_COLUMNS = ("title", "brand", "category", "color", "material", "description")


# A struct of type `PICTURE` as a row of `pyarrow.Table.to_pylist` has it.
Picture = Mapping[str, Any]


class DataError(Exception):
    """Bad input. The message says what is wrong, where, and what to do; it is printed without a traceback."""


def product_text(product: Mapping[str, Any], picture_text: str | None = None) -> str:
    """Join the text columns of a product; input of both BM25 and the text encoder.

    Args:
        product: A row of the products table; missing and null columns are skipped.
        picture_text: Read off its pictures. It goes before the description: this is the longest column, and a text
            encoder cuts off the end.
    """
    texts = [str(product[name]).replace("/", " ") if product.get(name) else "" for name in TEXT_COLUMNS]
    texts.insert(TEXT_COLUMNS.index("description"), picture_text or "")
    return " ".join(filter(None, texts))


def list_pictures(row: Mapping[str, Any]) -> list[Picture]:
    """List the pictures of a product or a query that are stored with their bytes, the main picture first.

    Args:
        row: A row of the products table with `images`, or of the queries table with `image`.
    """
    pictures = row["images"] if "images" in row else [row.get("image")]
    return [picture for picture in pictures or () if picture and picture["bytes"] is not None]


def main_picture(row: Mapping[str, Any]) -> bytes | None:
    """Return the main picture of a product or a query as stored; None if it has none."""
    return next((picture["bytes"] for picture in list_pictures(row)), None)
