"""What `validate` looks at: small frames of facts about a data set. Pictures are streamed; none is kept."""

from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
from tqdm import tqdm

from catalog import store
from catalog.images import Limits, PictureError, decode, is_flat, pixel_hash
from catalog.languages import language
from catalog.privacy import LOOKED_AT, looks_personal
from catalog.schema import DERIVED, EXACT, SPLITS, TABLES
from catalog.text import normalise
from validation.near_duplicates import appearance, near

ROWS = 256  # rows of pictures in memory at a time


class Look(NamedTuple):
    """What is remembered of one picture; all null where a row has none."""

    problem: str | None = None
    side: int | None = None  # pixels, the shorter one
    flat: bool | None = None
    pixels: str | None = None  # catalog.images.pixel_hash
    looks: bytes | None = None  # validation.near_duplicates.appearance, of products, where it is not flat


KINDS = {"problem": "str", "side": "Int32", "flat": "boolean", "pixels": "str", "looks": "object"}


def look(picture: dict[str, Any] | None, limits: Limits, compared: bool = False) -> Look:
    """Decode one value of a picture column and keep the facts; what it looks like if it is to be compared."""
    if picture is None or picture == {"bytes": None, "path": None}:
        return Look()
    if picture["bytes"] is None:
        return Look("only a path, no bytes")
    try:
        image = decode(picture["bytes"], limits)
    except PictureError as error:
        return Look(str(error))
    flat = is_flat(image)
    looks = appearance(image) if compared and not flat else None
    return Look(None, min(image.size), flat, pixel_hash(image), looks)


def columns(data: Path) -> pd.DataFrame:
    """One row per column of the schema and file: `column`, and `problem`, null where `catalog.store` can read it.

    Raises:
        DataError: for a missing table or a file that is not parquet.
    """
    rows = []
    for table, schema in TABLES.items():
        for path in store.files(data, table):
            found = store.open_file(path).schema_arrow
            rows += [(f"{table}/{path.name} {field.name}", _problem(field, found)) for field in schema]
    return pd.DataFrame(rows, columns=["column", "problem"], dtype="str")


def unexpected_columns(data: Path, allowed: Collection[str]) -> pd.DataFrame:
    """One row per column that is in a file and not in the schema: `column`, and `reason` where it looks personal.

    Args:
        data: The data set.
        allowed: Columns that may look so.
    """
    rows: list[tuple[str, str | None]] = []
    for table, schema in TABLES.items():
        for path in store.files(data, table):
            file = store.open_file(path)
            for name in (one for one in file.schema_arrow.names if one not in schema.names):
                first = next(file.iter_batches(LOOKED_AT, columns=[name]), None)
                values = first.column(0).to_pylist() if first is not None else []
                reason = None if name in allowed else looks_personal(name, values)
                rows.append((f"{table}/{path.name} {name}", reason))
    return pd.DataFrame(rows, columns=["column", "reason"], dtype="str")


def _problem(wanted: pa.Field, found: pa.Schema) -> str | None:
    if wanted.name not in found.names:
        return None if wanted.nullable else "missing"
    kind = found.field(wanted.name).type
    try:
        pa.array([], kind).cast(wanted.type)
    except pa.ArrowException:
        return f"is {kind}, not {wanted.type}"
    return None


def gather(data: Path, limits: Limits, languages: Collection[str] = ()) -> dict[str, pd.DataFrame]:
    """Read the whole data set and keep its facts.

    Args:
        data: The data set.
        limits: Of pictures.
        languages: That products' texts may be in, ISO 639-1; none for the one that most are in.

    Returns:
        name → frame, the first column (of judgements, the first two) naming the row:

        - products: product_id, title, description, price, a `Look`, frames (of its clip), and how many products
          have its pixels or its description, same_pixels and same_description; null where it has none; and the
          language of title and description as foreign, where it is clear and another, and how many letters
          and digits they have
        - queries: query_id, text, split, judged_by, frequency, asks ("text", "image", "text + image"), exact
          (judgements of grade 3, for test queries only), the splits that share its `text` or `pixels` with it
          where there are several, and a `Look`
        - judgements: query_id, product_id, grade, and the id that is not in its table as unknown_query, unknown_product
        - exact_matches: one row per split and product judged exact there, for derived queries; the splits that share
          its id, title or pixels, and the target of another split whose picture is another one and looks the same
        - shared_matches: the same for all other queries
        - pictures: one row per picture of products and queries
        - clip_frames: one row per frame of a clip, and its problem or none
        - satisfaction, where there is one
        - catalogue: the share of products without a picture
        - tables, splits: the number of rows, of queries

    Raises:
        DataError: where a file cannot be read to its end, or a value does not fit its column's type.
    """
    with ThreadPoolExecutor() as pool:  # Pillow decodes outside the interpreter's lock
        products, shop = _with_looks(
            data, "products", ["product_id", "title", "description", "price"], limits, pool
        )
        queries, asked = _with_looks(
            data, "queries", ["query_id", "text", "split", "judged_by", "frequency"], limits, pool
        )
        products["frames"], frames_seen = _clips(data, limits, pool)
    judgements = store.read(data, "judgements").to_pandas()
    frames = {"products": products, "queries": queries, "judgements": judgements}
    if store.files(data, "satisfaction"):
        frames["satisfaction"] = store.read(data, "satisfaction").to_pandas()
    counts = {table: len(frame) for table, frame in frames.items()}

    for frame in frames.values():
        _blank_to_null(frame)
    _add_product_facts(products, languages)
    _add_query_facts(queries, judgements)
    judgements["unknown_query"] = _not_in(judgements.query_id, queries.query_id)
    judgements["unknown_product"] = _not_in(judgements.product_id, products.product_id)
    return frames | {
        "exact_matches": _targets(products, queries[queries.judged_by == DERIVED], judgements),
        "shared_matches": _targets(products, queries[queries.judged_by != DERIVED], judgements),
        "pictures": pd.concat([shop, asked], ignore_index=True),
        "clip_frames": frames_seen,
        "catalogue": _shares(products),
        "tables": _counted("table", "rows", counts),
        "splits": _counted("split", "queries", {s: int((queries.split == s).sum()) for s in SPLITS}),
    }


def _with_looks(
    data: Path, table: str, names: list[str], limits: Limits, pool: ThreadPoolExecutor
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The named columns of a table beside a `Look` at each row's image, and the frame of its pictures."""
    see = partial(look, limits=limits, compared=table == "products")
    rows: list[pa.RecordBatch] = []
    looks: list[Look] = []
    pictures: list[tuple] = []
    for batch in _progress(data, table, [*names, "image"], table):
        rows.append(batch.select(names))
        ids = batch.column(names[0]).to_pylist()
        seen = list(pool.map(see, batch.column("image").to_pylist()))
        looks += seen
        pictures += [(f"{table}/{key}", *facts) for key, facts in zip(ids, seen, strict=True) if any(facts)]
    schema = pa.schema([TABLES[table].field(name).with_nullable(True) for name in names])
    frame = pa.Table.from_batches(rows, schema=schema).to_pandas()
    return (
        pd.concat([frame, pd.DataFrame(looks, columns=Look._fields).astype(KINDS)], axis=1),
        pd.DataFrame(pictures, columns=["picture", *Look._fields]).astype({"picture": "str"} | KINDS),
    )


def _clips(data: Path, limits: Limits, pool: ThreadPoolExecutor) -> tuple[pd.Series, pd.DataFrame]:
    """How many frames each product's clip has, null where it has none; and a row per frame."""
    counts: list[int | None] = []
    frames: list[tuple[str, str | None]] = []
    for batch in _progress(data, "products", ["product_id", "video"], "clips"):
        for key, video in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            counts.append(len(video or []) or None)
            problems = pool.map(partial(_frame_problem, limits=limits), video or [])
            frames += [(f"products/{key} frame {n}", problem) for n, problem in enumerate(problems)]
    return pd.Series(counts, dtype="Int32"), pd.DataFrame(frames, columns=["frame", "problem"], dtype="str")


def _frame_problem(frame: dict[str, Any] | None, limits: Limits) -> str | None:
    seen = look(frame, limits)
    return seen.problem or (None if seen.pixels else "nothing there")


def _progress(data: Path, table: str, names: list[str], what: str) -> Iterator[pa.RecordBatch]:
    total = sum(store.open_file(path).metadata.num_rows for path in store.files(data, table))
    with tqdm(total=total, desc=what, unit="row", disable=None) as bar:
        for batch in store.batches(data, table, names, rows=ROWS):
            yield batch
            bar.update(batch.num_rows)


def _add_product_facts(products: pd.DataFrame, languages: Collection[str]) -> None:
    for name, keys in (("pixels", products.pixels), ("description", _normalised(products.description))):
        products[f"same_{name}"] = keys.map(keys.value_counts()).astype("Int64")
    texts = products.title.fillna("") + ". " + products.description.fillna("")
    told = [language(text) for text in tqdm(texts, "languages", unit="row", disable=None)]
    spoken = pd.Series(told, products.index, dtype="str")
    native = languages or spoken.value_counts().index[:1]
    products["foreign"] = spoken.where(~spoken.isin(native))
    letters = texts.map(lambda text: sum(map(str.isalnum, text))).astype("Int64")
    products["letters"] = letters.where(products.title.notna())  # where it is null, missing_values tells


def _shares(products: pd.DataFrame) -> pd.DataFrame:
    without = (products.pixels.isna() & products.problem.isna()).mean() if len(products) else 0.0
    return pd.DataFrame({"share": ["products without a picture"], "value": [float(without)]})


def _add_query_facts(queries: pd.DataFrame, judgements: pd.DataFrame) -> None:
    has_text, has_image = queries.text.notna(), queries.problem.notna() | queries.pixels.notna()
    queries["asks"] = pd.Series(None, queries.index, dtype="str")
    queries.loc[has_text, "asks"] = "text"
    queries.loc[has_image, "asks"] = "image"
    queries.loc[has_text & has_image, "asks"] = "text + image"

    # Of a composed query the text alone may repeat ("the same in red"); text and picture together may not.
    together = _normalised(queries.text) + (" " + queries.pixels).where(has_image, "")
    queries["text_splits"] = _shared(together, queries.split)
    queries["pixels_splits"] = _shared(queries.pixels, queries.split)

    exact = judgements.query_id[judgements.grade == EXACT].value_counts()
    queries["exact"] = queries.query_id.map(exact).fillna(0).astype("Int64").where(queries.split == "test")


def _targets(products: pd.DataFrame, queries: pd.DataFrame, judgements: pd.DataFrame) -> pd.DataFrame:
    """What each split teaches or asks for: one row per split and product with an exact judgement of these queries."""
    exact = judgements[(judgements.grade == EXACT) & judgements.query_id.isin(queries.query_id)]
    splits = queries.drop_duplicates("query_id").set_index("query_id").split
    targets = pd.DataFrame(
        {"product_id": exact.product_id, "split": exact.query_id.map(splits).astype("str")}
    )
    targets = targets.dropna().drop_duplicates(ignore_index=True)
    known = products.dropna(subset="product_id").drop_duplicates("product_id").set_index("product_id")
    titles = _normalised(known.title)
    return pd.DataFrame(
        {
            "target": targets.product_id + " (" + targets.split + ")",
            "id_splits": _shared(targets.product_id, targets.split),
            "title_splits": _shared(targets.product_id.map(titles), targets.split),
            "pixels_splits": _shared(targets.product_id.map(known.pixels), targets.split),
            "looks_like": _looks_like(targets, known),
        }
    )


def _looks_like(targets: pd.DataFrame, products: pd.DataFrame) -> pd.Series:
    """For each target the one of another split whose picture looks the same, null where there is none."""
    seen = targets.join(products[["pixels", "looks"]], on="product_id").dropna(subset="looks")
    nearest = near(seen.looks.to_list(), seen.split.to_list(), seen.pixels.to_list())
    names = seen.product_id + " (" + seen.split + ")"
    found = names.iloc[nearest].set_axis(seen.index).where(nearest >= 0)
    return found.reindex(targets.index).astype("str")


def _normalised(texts: pd.Series) -> pd.Series:
    return texts.map(normalise, na_action="ignore").astype("str")


def _shared(keys: pd.Series, splits: pd.Series) -> pd.Series:
    """For each row, the splits its key occurs in, as "test + train"; null where that is one, or the key is null."""
    pairs = pd.DataFrame({"key": keys, "split": splits})
    leaking = pairs[pairs.groupby("key").split.transform("nunique") > 1]
    names = leaking.groupby("key").split.agg(lambda found: " + ".join(sorted(found.dropna().unique())))
    return leaking.key.map(names).reindex(pairs.index).astype("str")


def _not_in(ids: pd.Series, known: pd.Series) -> pd.Series:
    return ids.where(~ids.isin(known))


def _blank_to_null(frame: pd.DataFrame) -> None:
    for name in frame.select_dtypes("str"):
        frame[name] = frame[name].where(frame[name].str.strip() != "")


def _counted(name: str, unit: str, counts: dict[str, int]) -> pd.DataFrame:
    return pd.DataFrame({name: list(counts), unit: list(counts.values())})
