"""The profile of a data set: small frames that the rules of `validation.expectations` check. Pictures are streamed.

`profile_columns` and `profile_unexpected_columns` make one frame each, `profile_data` the others. The first column (of
judgements, the first two) names the row:

- products: product_id, title, description, price; language, as given, else detected; a `PictureProfile`; frames, the
  number of frames of its clip; same_pixels and same_description, how many products have its pixels or its description,
  null where it has none; foreign, the language of title and description where it is clearly another; letters, how many
  letters and digits they have
- queries: query_id, text, split, judged_by, frequency, cluster; asks ("text", "image", "text + image"); exact, the
  number of judgements of grade 3, for test queries only; identity, its text and pixels; text_splits, pixels_splits and
  cluster_splits, the splits that share its text, pixels or cluster where there are several; a `PictureProfile`
- judgements: query_id, product_id, grade; unknown_query and unknown_product, an id that is not in its table
- exact_matches: for derived queries, one row per split and product that is an exact match there: id_splits,
  title_splits and pixels_splits, the splits that share its id, title or pixels; looks_like, a near duplicate in another
  split
- shared_matches: the same for all other queries
- pictures: one row per picture of products and queries
- clip_frames: one row per frame of a clip, with its problem or null
- satisfaction, if the data set has it
- catalogue: the share of products without a picture
- languages: language, products (number), queries (share), without_products (the share where no product is in it)
- tables, splits: the number of rows, of queries
"""

import itertools
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa

from catalog import store
from catalog.images import Limits, PictureError, decode, is_flat, pixel_hash
from catalog.languages import choose_languages, detect_language, find_languages, is_possible
from catalog.privacy import SAMPLE_ROWS, looks_personal
from catalog.progress import show_progress
from catalog.schema import DERIVED, EXACT, SPLITS, TABLES
from catalog.text import normalise
from catalog.threads import cpu_count
from validation.near_duplicates import find_near_duplicates, picture_signature

BATCH_ROWS = 256  # rows of pictures in memory at a time


class PictureProfile(NamedTuple):
    """The profile of one picture; all null where a row has none."""

    problem: str | None = None
    side: int | None = None  # pixels, the shorter one
    flat: bool | None = None
    pixels: str | None = None  # catalog.images.pixel_hash
    signature: bytes | None = (
        None  # validation.near_duplicates.picture_signature, of products, where it is not flat
    )


PICTURE_DTYPES = {
    "problem": "str",
    "side": "Int32",
    "flat": "boolean",
    "pixels": "str",
    "signature": "object",
}


def profile_picture(
    picture: dict[str, Any] | None, limits: Limits, with_signature: bool = False
) -> PictureProfile:
    """Decode and profile one value of a picture column."""
    if picture is None or picture == {"bytes": None, "path": None}:
        return PictureProfile()
    if picture["bytes"] is None:
        return PictureProfile("only a path, no bytes")
    try:
        image = decode(picture["bytes"], limits)
    except PictureError as error:
        return PictureProfile(str(error))
    flat = is_flat(image)
    signature = picture_signature(image) if with_signature and not flat else None
    return PictureProfile(None, min(image.size), flat, pixel_hash(image), signature)


def profile_columns(data: Path) -> pd.DataFrame:
    """List each column of the schema in each file: `column`, and `problem`, null where `catalog.store` can read it.

    Raises:
        DataError: for a missing table or a file that is not parquet.
    """
    rows = []
    for table, schema in TABLES.items():
        for path in store.list_files(data, table):
            file_schema = store.open_file(path).schema_arrow
            rows += [
                (f"{table}/{path.name} {field.name}", _column_problem(field, file_schema)) for field in schema
            ]
    return pd.DataFrame(rows, columns=["column", "problem"], dtype="str")


def profile_unexpected_columns(data: Path, allowed: Collection[str]) -> pd.DataFrame:
    """List each column of a file that is not in the schema: `column`, and `reason` where it looks personal.

    Args:
        data: The data set.
        allowed: Columns that may look personal.
    """
    rows: list[tuple[str, str | None]] = []
    for table, schema in TABLES.items():
        for path in store.list_files(data, table):
            file = store.open_file(path)
            for name in (name for name in file.schema_arrow.names if name not in schema.names):
                first = next(file.iter_batches(SAMPLE_ROWS, columns=[name]), None)
                values = first.column(0).to_pylist() if first is not None else []
                reason = None if name in allowed else looks_personal(name, values)
                rows.append((f"{table}/{path.name} {name}", reason))
    return pd.DataFrame(rows, columns=["column", "reason"], dtype="str")


def _column_problem(field: pa.Field, file_schema: pa.Schema) -> str | None:
    if field.name not in file_schema.names:
        return None if field.nullable else "missing"
    file_type = file_schema.field(field.name).type
    try:
        pa.array([], file_type).cast(field.type)
    except pa.ArrowException:
        return f"is {file_type}, not {field.type}"
    return None


def profile_data(data: Path, limits: Limits, languages: Collection[str] = ()) -> dict[str, pd.DataFrame]:
    """Read the whole data set and profile it.

    Args:
        data: The data set.
        limits: Of pictures.
        languages: That products' texts may be in, ISO 639-1; none for the most frequent one.

    Returns:
        name → frame, as the module describes them.

    Raises:
        DataError: where a file cannot be read to its end, or a value does not fit its column's type.
    """
    frames = _read_frames(data, limits)
    products, queries, judgements = frames["products"], frames["queries"], frames["judgements"]
    row_counts = {table: len(frames[table]) for table in TABLES if table in frames}
    _add_product_columns(products, languages)
    _add_query_columns(queries, judgements)
    judgements["unknown_query"] = _unknown_ids(judgements.query_id, queries.query_id)
    judgements["unknown_product"] = _unknown_ids(judgements.product_id, products.product_id)
    derived = queries.judged_by == DERIVED
    return frames | {
        "exact_matches": _profile_exact_matches(products, queries[derived], judgements),
        "shared_matches": _profile_exact_matches(products, queries[~derived], judgements),
        "catalogue": _profile_catalogue(products),
        "languages": _profile_languages(products, queries),
        "tables": _count_frame("table", "rows", row_counts),
        "splits": _count_frame(
            "split", "queries", {split: int((queries.split == split).sum()) for split in SPLITS}
        ),
    }


def _read_frames(data: Path, limits: Limits) -> dict[str, pd.DataFrame]:
    """Read the tables, pictures and clips; blank texts of the tables become null."""
    with ThreadPoolExecutor(cpu_count()) as pool:  # Pillow decodes outside the interpreter's lock
        columns = ["product_id", "title", "description", "price", "language"]
        products, product_pictures = _profile_rows(data, "products", columns, limits, pool)
        columns = ["query_id", "text", "split", "judged_by", "frequency", "cluster"]
        queries, query_pictures = _profile_rows(data, "queries", columns, limits, pool)
        products["frames"], clip_frames = _profile_clips(data, limits, pool)
    tables = {
        "products": products,
        "queries": queries,
        "judgements": store.read_table(data, "judgements").to_pandas(),
    }
    if store.list_files(data, "satisfaction"):
        tables["satisfaction"] = store.read_table(data, "satisfaction").to_pandas()
    for frame in tables.values():
        _blank_to_null(frame)
    pictures = pd.concat([product_pictures, query_pictures], ignore_index=True)
    return tables | {"pictures": pictures, "clip_frames": clip_frames}


def _profile_rows(
    data: Path, table: str, names: list[str], limits: Limits, pool: ThreadPoolExecutor
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read the named columns of a table with the `PictureProfile` of each main picture, and a frame of all pictures."""
    column = "images" if table == "products" else "image"
    profile = partial(profile_picture, limits=limits, with_signature=table == "products")
    batches: list[pa.RecordBatch] = []
    profiles: list[PictureProfile] = []
    pictures: list[tuple] = []
    for batch in _read_with_progress(data, table, [*names, column], table):
        batches.append(batch.select(names))
        ids = batch.column(names[0]).to_pylist()
        values = batch.column(column).to_pylist()
        galleries = (
            [value or [None] for value in values] if table == "products" else [[value] for value in values]
        )
        owners = [(row, number) for row, gallery in enumerate(galleries) for number in range(len(gallery))]
        batch_profiles = list(pool.map(profile, itertools.chain.from_iterable(galleries)))
        for (row, number), picture in zip(owners, batch_profiles, strict=True):
            profiles += [] if number else [picture]
            name = f"{table}/{ids[row]}" + (f" picture {number + 1}" if number else "")
            pictures += [(name, *picture)] if any(picture) else []
    schema = pa.schema([TABLES[table].field(name).with_nullable(True) for name in names])
    frame = pa.Table.from_batches(batches, schema=schema).to_pandas()
    picture_columns = pd.DataFrame(profiles, columns=PictureProfile._fields).astype(PICTURE_DTYPES)
    picture_frame = pd.DataFrame(pictures, columns=["picture", *PictureProfile._fields])
    return (
        pd.concat([frame, picture_columns], axis=1),
        picture_frame.astype({"picture": "str"} | PICTURE_DTYPES),
    )


def _profile_clips(data: Path, limits: Limits, pool: ThreadPoolExecutor) -> tuple[pd.Series, pd.DataFrame]:
    """Count the frames of each product's clip, null where it has none; and list a row per frame."""
    counts: list[int | None] = []
    frames: list[tuple[str, str | None]] = []
    for batch in _read_with_progress(data, "products", ["product_id", "video"], "clips"):
        for key, video in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            counts.append(len(video or []) or None)
            problems = pool.map(partial(_frame_problem, limits=limits), video or [])
            frames += [(f"products/{key} frame {number}", problem) for number, problem in enumerate(problems)]
    return pd.Series(counts, dtype="Int32"), pd.DataFrame(frames, columns=["frame", "problem"], dtype="str")


def _frame_problem(frame: dict[str, Any] | None, limits: Limits) -> str | None:
    profile = profile_picture(frame, limits)
    return profile.problem or (None if profile.pixels else "empty")


def _read_with_progress(data: Path, table: str, names: list[str], label: str) -> Iterator[pa.RecordBatch]:
    total = sum(store.open_file(path).metadata.num_rows for path in store.list_files(data, table))
    with show_progress(total=total, desc=label, unit="row") as bar:
        for batch in store.read_batches(data, table, names, rows=BATCH_ROWS):
            yield batch
            bar.update(batch.num_rows)


def _add_product_columns(products: pd.DataFrame, languages: Collection[str]) -> None:
    for name, keys in (("pixels", products.pixels), ("description", _normalised(products.description))):
        products[f"same_{name}"] = keys.map(keys.value_counts()).astype("Int64")
    texts = _join_texts(products)
    given = products.language
    products["language"] = choose_languages(
        texts.to_list(), [None if pd.isna(code) else code for code in given]
    )
    detected = [detect_language(text) for text in show_progress(texts, "languages", unit="row")]
    text_languages = pd.Series(detected, products.index, dtype="str")
    expected = languages or text_languages.value_counts().index[:1]
    products["foreign"] = text_languages.where(~text_languages.isin(expected) & (text_languages != given))
    letters = texts.map(lambda text: sum(map(str.isalnum, text))).astype("Int64")
    products["letters"] = letters.where(products.title.notna())  # a null title is reported by missing_values


def _profile_languages(products: pd.DataFrame, queries: pd.DataFrame) -> pd.DataFrame:
    """List the languages of products and of queries; a single query is too short to be certain of its language."""
    counts = products.language.value_counts()
    shares = find_languages(queries.text.dropna().to_list())
    texts = _join_texts(products).to_list()
    codes = [*counts.index, *(code for code in shares if code not in counts.index)]
    frame = pd.DataFrame({"language": pd.Series(codes, dtype="str")})
    frame["products"] = [int(counts.get(code, 0)) for code in codes]
    frame["queries"] = [shares.get(code, 0.0) for code in codes]
    described = frame.queries.map("{:.0%} of the queries".format).astype("str")
    possible = [
        count > 0 or is_possible(code, texts) for code, count in zip(codes, frame.products, strict=True)
    ]
    return frame.assign(without_products=described.mask(possible))


def _join_texts(products: pd.DataFrame) -> pd.Series:
    return products.title.fillna("") + ". " + products.description.fillna("")


def _profile_catalogue(products: pd.DataFrame) -> pd.DataFrame:
    without = (products.pixels.isna() & products.problem.isna()).mean() if len(products) else 0.0
    return pd.DataFrame({"share": ["products without a picture"], "value": [float(without)]})


def _add_query_columns(queries: pd.DataFrame, judgements: pd.DataFrame) -> None:
    has_text, has_image = queries.text.notna(), queries.problem.notna() | queries.pixels.notna()
    queries["asks"] = pd.Series(None, queries.index, dtype="str")
    queries.loc[has_text, "asks"] = "text"
    queries.loc[has_image, "asks"] = "image"
    queries.loc[has_text & has_image, "asks"] = "text + image"

    # The text of a composed query may repeat ("the same in red"); its text and picture together may not.
    composed = _normalised(queries.text) + (" " + queries.pixels).where(has_image, "")
    queries["identity"] = composed.fillna(queries.pixels)
    queries["text_splits"] = _shared_splits(composed, queries.split)
    queries["pixels_splits"] = _shared_splits(queries.pixels, queries.split)
    queries["cluster_splits"] = _shared_splits(queries.cluster, queries.split)

    exact = judgements.query_id[judgements.grade == EXACT].value_counts()
    queries["exact"] = queries.query_id.map(exact).fillna(0).astype("Int64").where(queries.split == "test")


def _profile_exact_matches(
    products: pd.DataFrame, queries: pd.DataFrame, judgements: pd.DataFrame
) -> pd.DataFrame:
    """List one row per split and product that is an exact match of one of these queries."""
    exact = judgements[(judgements.grade == EXACT) & judgements.query_id.isin(queries.query_id)]
    splits = queries.drop_duplicates("query_id").set_index("query_id").split
    matches = pd.DataFrame(
        {"product_id": exact.product_id, "split": exact.query_id.map(splits).astype("str")}
    )
    matches = matches.dropna().drop_duplicates(ignore_index=True)
    known = products.dropna(subset="product_id").drop_duplicates("product_id").set_index("product_id")
    titles = _normalised(known.title)
    return pd.DataFrame(
        {
            "target": matches.product_id + " (" + matches.split + ")",
            "id_splits": _shared_splits(matches.product_id, matches.split),
            "title_splits": _shared_splits(matches.product_id.map(titles), matches.split),
            "pixels_splits": _shared_splits(matches.product_id.map(known.pixels), matches.split),
            "looks_like": _near_duplicates(matches, known),
        }
    )


def _near_duplicates(matches: pd.DataFrame, products: pd.DataFrame) -> pd.Series:
    """The near duplicate in another split of each exact match, null for none."""
    pictures = matches.join(products[["pixels", "signature"]], on="product_id").dropna(subset="signature")
    nearest = find_near_duplicates(
        pictures.signature.to_list(), pictures.split.to_list(), pictures.pixels.to_list()
    )
    names = pictures.product_id + " (" + pictures.split + ")"
    duplicates = names.iloc[nearest].set_axis(pictures.index).where(nearest >= 0)
    return duplicates.reindex(matches.index).astype("str")


def _normalised(texts: pd.Series) -> pd.Series:
    return texts.map(normalise, na_action="ignore").astype("str")


def _shared_splits(keys: pd.Series, splits: pd.Series) -> pd.Series:
    """The splits of each row's key, as "test + train"; null where there is only one, or the key is null."""
    pairs = pd.DataFrame({"key": keys, "split": splits})
    leaking = pairs[pairs.groupby("key").split.transform("nunique") > 1]
    names = leaking.groupby("key").split.agg(lambda names: " + ".join(sorted(names.dropna().unique())))
    return leaking.key.map(names).reindex(pairs.index).astype("str")


def _unknown_ids(ids: pd.Series, known: pd.Series) -> pd.Series:
    return ids.where(~ids.isin(known))


def _blank_to_null(frame: pd.DataFrame) -> None:
    for name in frame.select_dtypes("str"):
        frame[name] = frame[name].where(frame[name].str.strip() != "")


def _count_frame(name: str, unit: str, counts: dict[str, int]) -> pd.DataFrame:
    return pd.DataFrame({name: list(counts), unit: list(counts.values())})
