"""train: train the fusion model on features, with validation by NDCG@10 after every epoch."""

import csv
import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from vitrine_judge.metrics import score
from vitrine_judge.rankings import Qrels, Run

from catalog import store
from catalog.schema import GAINS, JUDGED_BY, DataError
from components.params import TrainParams
from fusion.encoders.image import ImageEncoder
from fusion.encoders.text import TextEncoderInit
from fusion.encoders.vocabulary import Vocabulary
from fusion.facets import Facets
from fusion.features import MODALITIES, Items
from fusion.featurizer import ENCODER, SETTINGS, copy_featurizer
from fusion.fusions import FUSIONS
from fusion.model import ModelConfig, ProductSearchModel, embed
from fusion.search.catalogue_search import build_run_table
from fusion.search.late_fusion import tune_late_fusion
from fusion.search.vector_index import top_k
from fusion.training.distillation import Teacher
from fusion.training.distributed import broadcast_from_leader, join_processes
from fusion.training.loop import Schedule, fit_model
from fusion.training.objective import Objective
from fusion.training.sampling import JudgementIndex, TrainingSet
from registry.mlflow_runs import track_training

VALIDATION_METRIC = "ndcg@10"
Validator = Callable[[ProductSearchModel, np.ndarray], float]


class Preparation(NamedTuple):
    """What training starts from.

    Attributes:
        network: The untrained model.
        training: Training queries, judgements and products.
        validate: Scores a model on the validation queries, given the vectors of the products, float32 (P, dim).
    """

    network: ProductSearchModel
    training: TrainingSet
    validate: Validator


def train(features: Path, params: TrainParams, model: Path) -> None:
    """Train one model. A killed run resumes after its last finished epoch.

    If MLFLOW_TRACKING_URI is set, each epoch is logged to MLflow as it ends, in the run that `register` continues.

    `torchrun -m components train …` starts several processes that share every step.

    Args:
        features: What `featurize` wrote.
        params: The model and its training.
        model: Folder to write: what `ProductSearchModel.save` writes, the featurizer with the tuned image encoder, and
            history.csv.

    Raises:
        DataError: where no training or validation query is judged, the image encoder is to be tuned and no pictures
            were kept, an encoder cannot be tuned as `params.tune` says, or the teacher does not fit the data.
    """
    network, training, validate = prepare(features, params)
    provenance = {
        "features": store.fingerprint(features),
        "teacher": params.teacher and store.fingerprint(Path(params.teacher)),
        "params": params.model_dump(),
    }
    with (
        join_processes() as world,
        store.atomic_dir(model) if world.is_leader else nullcontext(model) as partial,
    ):
        tracking: AbstractContextManager[Callable[[dict[str, float]], None]] = nullcontext(_ignore)
        if world.is_leader:
            store.resume_if_same(partial, provenance)
            tracking = track_training(store.fingerprint(partial / "made_from.json"))
        checkpoint = broadcast_from_leader(partial / "checkpoint.pt")
        with tracking as report:
            history = fit_model(
                network.to("cuda" if torch.cuda.is_available() else "cpu"),
                training,
                validate,
                build_objective(params),
                build_schedule(params),
                checkpoint=checkpoint,
                report=report,
            )
        if world.is_leader:
            score = max(row["score"] for row in history)
            if params.late_fusion:
                score = tune_late_fusion(network, training.products, validate)
            _write_model(network.cpu(), history, features, partial)
            checkpoint.unlink()
            print(json.dumps(_summarise(network, history, score)))


def prepare(features: Path, params: TrainParams) -> Preparation:
    """Build the untrained model, its training set and its validation; arguments and errors as for `train`."""
    torch.manual_seed(params.seed)
    attends = FUSIONS[params.fusion].attends
    tunes_images = params.tune.image != "none"
    products, queries = (
        Items.load(features, table, attends, tunes_images) for table in ("products", "queries")
    )
    judgements = pq.read_table(features / "judgements.parquet")
    vocabulary = Vocabulary.load(features / "vocabulary.json")
    facets = Facets.load(features, vocabulary)
    training = _build_training_set(products, queries, judgements, facets, vocabulary.continuations)
    if params.teacher:
        teacher = Teacher.load(Path(params.teacher), products.ids, training.queries.ids)
        training = replace(training, teacher=teacher)
    validate = _build_validator(products, queries, judgements)
    network = _build_network(features, params, training, len(vocabulary))
    return Preparation(network, training, validate)


def _build_network(
    features: Path, params: TrainParams, training: TrainingSet, vocabulary: int
) -> ProductSearchModel:
    """Build the model; the image encoder is part of it only if it is to be tuned."""
    settings = json.loads((features / SETTINGS).read_text())
    text_encoder = TextEncoderInit.load(features)
    products, facets = training.products, training.facets
    has_clips = products.present[:, MODALITIES.index("video")].any()
    config = ModelConfig(
        vocabulary=vocabulary,
        image_features=products.images.shape[1],
        region_features=products.regions.shape[2],
        joint_features=products.joint.shape[1],
        text_encoder=text_encoder.encoder,
        text_settings=text_encoder.settings,
        video_encoder=settings["clips"][0] if has_clips else None,
        tags={
            name: labels
            for name, labels in zip(facets.columns, facets.labels, strict=True)
            if name in params.tags and labels
        },
        entities=training.entities.types,
        **params.model_dump(include=_field_names(ModelConfig) - {"tags", "entities"}),
    )
    network = ProductSearchModel(config, params.temperature)
    network.text.load_published(text_encoder.state)
    if params.tune.image != "none":
        encoder = ImageEncoder.load(features / ENCODER, *settings["encoder"])
        network.image_encoder = encoder.to(memory_format=torch.channels_last)  # as its pictures are
    network.tune(**params.tune.model_dump(), recompute=params.gradient_checkpointing)
    return network


def build_objective(params: TrainParams) -> Objective:
    """Build the objective that training minimises."""
    return Objective(**params.model_dump(include=_field_names(Objective)))


def build_schedule(params: TrainParams) -> Schedule:
    """Build the schedule of training."""
    return Schedule(**params.model_dump(include=_field_names(Schedule)))


def _ignore(_: dict[str, float]) -> None:
    pass


def _summarise(network: ProductSearchModel, history: list[dict[str, float]], score: float) -> dict[str, Any]:
    best = max(history, key=lambda row: row["score"])
    weights = dict(zip(network.config.modalities, network.late_fusion_weights.tolist(), strict=True))
    return {
        "epochs": len(history),
        "best_epoch": best["epoch"],
        "late": weights,
        f"valid {VALIDATION_METRIC}": score,
    }


def _write_model(
    network: ProductSearchModel, history: list[dict[str, float]], features: Path, folder: Path
) -> None:
    network.save(folder)
    copy_featurizer(features, folder)
    if network.image_encoder:
        network.image_encoder.save(folder / ENCODER)
        settings = json.loads((folder / SETTINGS).read_text())
        (folder / SETTINGS).write_text(json.dumps(settings | {"runtime": "torch"}, indent=2) + "\n")
    with (folder / "history.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(history[0]))
        writer.writeheader()
        writer.writerows(history)


def _field_names(dataclass: type) -> set[str]:
    return {field.name for field in fields(dataclass)}


def _build_training_set(
    products: Items, queries: Items, judgements: pa.Table, facets: Facets, continuations: np.ndarray
) -> TrainingSet:
    training_queries = queries.take(queries.splits == "train")
    judgements = _select_judgements(judgements, training_queries)
    if not len(judgements):
        raise DataError("train: no judged query has the split 'train'; nothing to train on")
    query_rows, product_rows = (
        {item: row for row, item in enumerate(items.ids)} for items in (training_queries, products)
    )
    index = JudgementIndex.build(
        np.array([query_rows[query] for query in judgements["query_id"].to_pylist()]),
        np.array([product_rows[product] for product in judgements["product_id"].to_pylist()]),
        judgements["grade"].to_numpy(),
        len(products),
    )
    return TrainingSet(products, training_queries, index, facets, continuations)


def _build_validator(products: Items, queries: Items, judgements: pa.Table) -> Validator:
    validation_queries = queries.take(queries.splits == "valid")
    qrels = _validation_qrels(_select_judgements(judgements, validation_queries))

    def validate(network: ProductSearchModel, vectors: np.ndarray) -> float:
        best = top_k(embed(network, validation_queries, "query"), vectors, 10)
        run = Run.from_table(build_run_table(validation_queries.ids, products.ids, *best))
        return score(run, qrels, [VALIDATION_METRIC], gains=GAINS).means()[VALIDATION_METRIC]

    return validate


def _validation_qrels(judgements: pa.Table) -> Qrels:
    """The judgements of the most trusted kind of judge, as in `evaluate`."""
    for judge in JUDGED_BY:
        rows = judgements.filter(pc.equal(judgements["judged_by"], judge))
        if len(rows):
            return Qrels.from_table(rows)
    raise DataError("train: no judged query has the split 'valid'; early stopping needs some")


def _select_judgements(judgements: pa.Table, queries: Items) -> pa.Table:
    return judgements.filter(pc.is_in(judgements["query_id"], pa.array(queries.ids, pa.string())))
