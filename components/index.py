"""index: encode the catalogue and build what is searched."""

from pathlib import Path

from catalog import store
from catalog.content import hash_products
from components.params import IndexParams
from fusion.featurizer import load_items
from fusion.model import ProductSearchModel, embed
from fusion.search.lexical_index import LexicalIndex
from fusion.search.search_index import SearchIndex, select_tuning_queries
from scoring.results import write_json
from scoring.systems import read_data_fingerprint


def index(data: Path, features: Path, model: Path, params: IndexParams, index: Path) -> None:
    """Encode the catalogue, and index its vectors and its words.

    Args:
        data: The data set.
        features: What `featurize` made of it.
        model: What `train` wrote.
        params: How words are read.
        index: Folder to write, see `SearchIndex.save`: marker.json (hashes of model and encoders, the data's
            fingerprint, dimension), products.parquet, lexical/ and, for a large catalogue, lists.npz; made_from.json
            (data, parameters).

    Raises:
        DataError: where no pictures were kept for a model that tuned its image encoder.
    """
    network = ProductSearchModel.load(model)
    products, queries = (
        load_items(features, table, model, network.attends) for table in ("products", "queries")
    )
    tuning_embeddings = embed(network, select_tuning_queries(queries), "query")
    lexical = LexicalIndex.build(data, params.language, products.ocr)
    fingerprint = read_data_fingerprint(features)
    built = SearchIndex.build(network, products, data, fingerprint, tuning_embeddings, lexical)
    with store.new_atomic_dir(index) as folder:
        built.save(folder, hash_products(data))
        write_json(folder / "made_from.json", {"data": fingerprint, "params": params.model_dump(mode="json")})
    print(f"index: {built.fields.num_rows:,} products, {built.nbytes / 1e6:,.1f} MB in memory")
