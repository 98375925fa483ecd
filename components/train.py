"""train: the fusion model, on what featurize left, validated by NDCG@10 every epoch."""

import csv
import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from catalog import store
from catalog.schema import GAINS, JUDGED_BY, DataError
from components.params import TrainParams
from eval.metrics import score
from eval.rankings import Qrels, Run
from fusion.encoders.image import ImageEncoder
from fusion.encoders.text import Start
from fusion.encoders.vocabulary import Vocabulary
from fusion.facets import Facets
from fusion.features import MODALITIES, Items
from fusion.featurizer import ENCODER
from fusion.featurizer import FILES as FEATURIZER_FILES
from fusion.fusions import FUSIONS
from fusion.model import ModelConfig, ProductSearchModel, embed
from fusion.search.catalogue_search import run_table
from fusion.search.late_fusion import weigh
from fusion.search.vector_index import top_k
from fusion.training.distributed import from_leader, processes
from fusion.training.loop import fit
from fusion.training.objective import Objective
from fusion.training.sampling import Judged, TrainingSet
from registry.tracking import watch

VALIDATED_BY = "ndcg@10"


def train(features: Path, params: TrainParams, model: Path) -> None:
    """Train one model; a killed run goes on from its last finished epoch.

    Where MLFLOW_TRACKING_URI names a store, each epoch is shown there as it ends, in the run that `register` takes up.

    Started by `torchrun -m components train …`, its processes share every step.

    Args:
        features: What `featurize` wrote.
        params: The model and its training.
        model: Folder to write: weights.safetensors, config.json, the featurizer with the image encoder as tuned, and
            history.csv.

    Raises:
        DataError: where there is nothing to train or to validate on, or no pictures were kept to tune the image encoder
            with.
    """
    network, training, validate = prepare(features, params)
    made_from = {"features": store.fingerprint(features), "params": params.model_dump()}
    with processes() as here, store.whole(model) if here.leads else nullcontext(model) as partial:
        if here.leads:
            store.go_on(partial, made_from)
        checkpoint = from_leader(partial / "checkpoint.pt")
        shown = watch(store.fingerprint(partial / "made_from.json")) if here.leads else nullcontext(_silent)
        with shown as report:
            history = fit(
                network.to("cuda" if torch.cuda.is_available() else "cpu"),
                training,
                validate,
                objective(params),
                checkpoint=checkpoint,
                report=report,
                **schedule(params),
            )
        if here.leads:
            best = max(history, key=lambda row: row["score"])
            score = weigh(network, training.products, validate) if params.late_fusion else best["score"]
            _write(network.cpu(), history, features, partial)
            checkpoint.unlink()
            said = {
                "epochs": len(history),
                "best_epoch": best["epoch"],
                "late": dict(zip(network.config.modalities, network.late.tolist(), strict=True)),
                f"valid {VALIDATED_BY}": score,
            }
            print(json.dumps(said))


def prepare(
    features: Path, params: TrainParams
) -> tuple[ProductSearchModel, TrainingSet, Callable[[ProductSearchModel, np.ndarray], float]]:
    """The untrained model, what it may see, and how it is validated.

    Arguments and errors as for `train`.
    """
    torch.manual_seed(params.seed)
    attends = FUSIONS[params.fusion].attends
    tunes = params.freeze.image != "all"
    products, queries = (Items.load(features, table, attends, tunes) for table in ("products", "queries"))
    judgements = pq.read_table(features / "judgements.parquet")
    vocabulary = Vocabulary.load(features / "vocabulary.json")
    facets = Facets.load(features, vocabulary)
    training = _training_set(products, queries, judgements, facets)
    valid = queries.take(queries.splits == "valid")
    qrels = _qrels(judgements, valid)

    def validate(candidate: ProductSearchModel, vectors: np.ndarray) -> float:
        found = top_k(embed(candidate, valid, "query"), vectors, 10)
        run = Run.from_table(run_table(valid.ids, products.ids, *found))
        return score(run, qrels, [VALIDATED_BY], gains=GAINS).means()[VALIDATED_BY]

    has_clips = products.present[:, MODALITIES.index("video")].any()
    start = Start.load(features)
    settings = json.loads((features / "featurizer.json").read_text())
    config = ModelConfig(
        vocabulary=len(vocabulary),
        image_features=products.images.shape[1],
        region_features=products.regions.shape[2],
        text_encoder=start.encoder,
        text_settings=start.settings,
        video_encoder=settings["clips"][0] if has_clips else None,
        tags={
            name: labels
            for name, labels in zip(facets.columns, facets.labels, strict=True)
            if name in params.tags and labels
        },
        entities=training.entities.types,
        **params.model_dump(include=_names(ModelConfig) - {"tags", "entities"}),
    )
    network = ProductSearchModel(config, params.temperature)
    network.text.start(start.state)
    if tunes:
        encoder = ImageEncoder.load(features / ENCODER, *settings["encoder"])
        network.image_encoder = encoder.to(memory_format=torch.channels_last)  # as its pictures are
    network.freeze(**params.freeze.model_dump())
    return network, training, validate


def objective(params: TrainParams) -> Objective:
    """What training minimises."""
    return Objective(**params.model_dump(include=_names(Objective)))


def schedule(params: TrainParams) -> dict[str, Any]:
    """The arguments of `fit` that are knobs."""
    elsewhere = _names(Objective) | _names(ModelConfig) | {"temperature", "freeze", "late_fusion"}
    return params.model_dump(exclude=elsewhere)


def _silent(_: dict[str, float]) -> None:
    pass


def _write(
    network: ProductSearchModel, history: list[dict[str, float]], features: Path, folder: Path
) -> None:
    network.save(folder)
    for name in FEATURIZER_FILES:
        shutil.copy(features / name, folder / name)
    if network.image_encoder:
        network.image_encoder.save(folder / ENCODER)
    with (folder / "history.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(history[0]))
        writer.writeheader()
        writer.writerows(history)


def _names(of: type) -> set[str]:
    return {field.name for field in fields(of)}


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
    """Of the most trusted kind, as in `evaluate`."""
    own = _of(judgements, queries)
    for by in JUDGED_BY:
        if len(said := own.filter(pc.equal(own["judged_by"], by))):
            return Qrels.from_table(said)
    raise DataError("train: no judged query has the split 'valid'; early stopping needs some")


def _of(judgements: pa.Table, queries: Items) -> pa.Table:
    return judgements.filter(pc.is_in(judgements["query_id"], pa.array(queries.ids, pa.string())))
