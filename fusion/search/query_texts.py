"""Embeds texts of queries that are in no data set, such as those of a log."""

from pathlib import Path

import pyarrow as pa

from fusion.search.catalogue_search import load_model
from fusion.search.marker import embed_queries


def embed_texts(folder: Path, queries: pa.Table) -> pa.Table:
    """Embed the texts of queries with a saved model.

    Args:
        folder: Output folder of the train stage.
        queries: Columns query_id and text.

    Returns:
        Columns query_id and vector (float32, the model's dim), in the same order.

    Raises:
        DataError: the folder does not hold a model.
    """
    model, featurizer = load_model(folder)
    rows = [{**row, "split": "", "segment": "", "image": None} for row in queries.to_pylist()]
    items, _ = featurizer.featurize_rows("queries", rows)  # errors are those of pictures
    vectors = embed_queries(model, items).vectors
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), model.config.dim)
    return pa.table({"query_id": pa.array(items.ids, pa.string()), "vector": column})
