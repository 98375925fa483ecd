"""Train a model on a small catalogue and search with it, without DVC and MLflow: python examples/train_and_search.py"""

from pathlib import Path
from tempfile import TemporaryDirectory

from catalog.sample import write_sample
from catalog.store import fingerprint
from components.featurize import featurize
from components.params import FeaturizeParams, TrainParams, ValidateParams
from components.train import train
from components.validate import validate
from fusion.search.catalogue_search import load_model
from fusion.search.marker import embed_queries
from fusion.search.search_index import SearchIndex


def train_model(folder: Path, params: TrainParams) -> None:
    """Draw 120 products and 120 judged queries, then run the stages validate, featurize and train."""
    write_sample(folder / "data", products=120, seed=1, queries=120, workers=1)
    validate(folder / "data", ValidateParams(), folder / "report")
    featurize(folder / "data", folder / "report", FeaturizeParams(), folder / "features")
    train(folder / "features", params, folder / "model")


def search(folder: Path, text: str, k: int = 5) -> list[tuple[str, float]]:
    """Title and score of the best products for a text query."""
    model, featurizer = load_model(folder / "model")
    row = {"query_id": "q", "text": text, "image": None, "split": "test", "segment": None}
    items, _ = featurizer.featurize_rows("queries", [row])
    queries, data = embed_queries(model, items), folder / "data"
    products = featurizer.featurize_table(data, "products")
    index = SearchIndex.build(model, products, data, fingerprint(data), queries.vectors)
    return [(result["title"], result["score"]) for result in index.find(queries, k)[0]]


if __name__ == "__main__":
    with TemporaryDirectory() as name:
        train_model(Path(name), TrainParams(epochs=3, dim=64, hidden=64))  # quick; more epochs rank better
        for title, score in search(Path(name), "red dotted mug"):
            print(f"{score:.3f}  {title}")
