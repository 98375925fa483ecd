"""train: the fusion model, on what featurize left, validated by NDCG@10 every epoch."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from catalog import store
from catalog.schema import GAINS, DataError
from components.params import TrainParams
from eval.metrics import score
from eval.rankings import Qrels, Run
from fusion.facets import Facets
from fusion.features import Items
from fusion.featurizer import FILES as FEATURIZER_FILES
from fusion.fusions import FUSIONS
from fusion.model import ModelConfig, ProductSearchModel
from fusion.sampling import Judged, TrainingSet
from fusion.search import rank
from fusion.text import Vocabulary
from fusion.training import fit

VALIDATED_BY = "ndcg@10"


def train(features: Path, params: TrainParams, model: Path) -> None:
    """Train one model; a killed run goes on from its last finished epoch.

    Args:
        features: What `featurize` wrote.
        params: The model and its training.
        model: Folder to write: weights.safetensors, config.json, the featurizer and history.csv.

    Raises:
        DataError: where there is nothing to train or to validate on.
    """
    torch.manual_seed(params.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    attends = FUSIONS[params.fusion].attends
    products, queries = (Items.load(features, table, attends) for table in ("products", "queries"))
    judgements = pq.read_table(features / "judgements.parquet")
    vocabulary = Vocabulary.load(features / "vocabulary.json")
    training = _training_set(products, queries, judgements, Facets.load(features, vocabulary))
    valid = queries.take(queries.splits == "valid")
    qrels = _qrels(judgements, valid)

    def validate(candidate: ProductSearchModel) -> float:
        run = Run.from_table(rank(candidate, valid, products, 10))
        return score(run, qrels, [VALIDATED_BY], gains=GAINS).means()[VALIDATED_BY]

    config = ModelConfig(
        vocabulary=len(vocabulary),
        image_features=products.images.shape[1],
        region_features=products.regions.shape[2],
        fusion=params.fusion,
        dim=params.dim,
        hidden=params.hidden,
        dropout=params.dropout,
    )
    network = ProductSearchModel(config, params.temperature).to(device)
    made_from = {"features": store.fingerprint(features), "params": params.model_dump()}
    with store.whole(model) as partial:
        store.go_on(partial, made_from)
        checkpoint = partial / "checkpoint.pt"
        history = fit(
            network,
            training,
            validate,
            checkpoint=checkpoint,
            **params.model_dump(exclude={"fusion", "dim", "hidden", "dropout", "temperature"}),
        )
        network.cpu().save(partial)
        for name in FEATURIZER_FILES:
            shutil.copy(features / name, partial / name)
        with (partial / "history.csv").open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(history[0]))
            writer.writeheader()
            writer.writerows(history)
        checkpoint.unlink()
    best = max(history, key=lambda row: row["score"])
    print(
        json.dumps(
            {"epochs": len(history), "best_epoch": best["epoch"], f"valid {VALIDATED_BY}": best["score"]}
        )
    )


def _training_set(products: Items, queries: Items, judgements: pa.Table, facets: Facets) -> TrainingSet:
    asked = queries.take(queries.splits == "train")
    own = _of(judgements, asked)
    if not len(own):
        raise DataError("train: no judged query has the split 'train'; nothing to train on")
    rows = {
        role: {item: row for row, item in enumerate(items.ids)}
        for role, items in (("q", asked), ("p", products))
    }
    judged = Judged.build(
        np.array([rows["q"][i] for i in own["query_id"].to_pylist()]),
        np.array([rows["p"][i] for i in own["product_id"].to_pylist()]),
        own["grade"].to_numpy(),
        len(products),
    )
    return TrainingSet(products, asked, judged, facets)


def _qrels(judgements: pa.Table, queries: Items) -> Qrels:
    own = _of(judgements, queries)
    if not len(own):
        raise DataError("train: no judged query has the split 'valid'; early stopping needs some")
    return Qrels.from_table(own)


def _of(judgements: pa.Table, queries: Items) -> pa.Table:
    return judgements.filter(pc.is_in(judgements["query_id"], pa.array(queries.ids, pa.string())))
