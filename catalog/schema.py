"""The columns of a data set, their types and their meaning.

A data set is a folder with one sub-folder of parquet files per table::

    data/products/*.parquet  queries/*.parquet  judgements/*.parquet  [satisfaction/*.parquet]
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
        ("category", pa.string()),  # a path: "clothing/shirt"
        ("brand", pa.string()),
        ("color", pa.string()),
        ("material", pa.string()),
        ("price", pa.float64()),
        ("currency", pa.string()),  # a code of ISO 4217
        ("image", PICTURE),
        ("video", pa.list_(PICTURE)),  # the frames of a clip, in order
        ("attributes", pa.map_(pa.string(), pa.string())),
    ]
)

QUERIES = pa.schema(
    [
        pa.field("query_id", pa.string(), nullable=False),
        ("text", pa.string()),
        ("image", PICTURE),
        pa.field("split", pa.string(), nullable=False),
        ("segment", pa.string()),
        ("judged_by", pa.string()),  # one of `JUDGED_BY`; null: people
        ("frequency", pa.int64()),  # how often it was searched for in some period; null: not known
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

TABLES = {"products": PRODUCTS, "queries": QUERIES, "judgements": JUDGEMENTS, "satisfaction": SATISFACTION}
OPTIONAL_TABLES = frozenset({"satisfaction"})

# Where a query's judgements come from: people; what shoppers did; what is written of the products themselves.
HUMAN, IMPLICIT, DERIVED = JUDGED_BY = ("human", "implicit", "derived")

SPLITS = ("train", "valid", "test")

# As in Amazon ESCI: exact, substitute, complement, irrelevant.
EXACT, SUBSTITUTE, COMPLEMENT, IRRELEVANT = 3, 2, 1, 0
GRADE_NAMES = {EXACT: "exact", SUBSTITUTE: "substitute", COMPLEMENT: "complement", IRRELEVANT: "irrelevant"}
GRADES = tuple(sorted(GRADE_NAMES))

# What each grade is worth, as in Amazon ESCI (Reddy et al., 2022): a substitute is neither a hit nor a miss.
GAINS = {EXACT: 1.0, SUBSTITUTE: 0.1, COMPLEMENT: 0.01, IRRELEVANT: 0.0}

# The columns that a product is found by when searched as text, most telling first.
TEXT_COLUMNS = ("title", "brand", "category", "color", "material", "description")


class DataError(Exception):
    """Bad input. The message says what is wrong, where, and what to do; no traceback is owed."""


def product_text(product: Mapping[str, Any]) -> str:
    """Everything written about a product, as one text: what BM25 and the text tower both read.

    Args:
        product: A row of the products table; absent and null columns are left out.
    """
    return " ".join(str(product[c]).replace("/", " ") for c in TEXT_COLUMNS if product.get(c))
