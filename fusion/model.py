"""The model: a query tower and a product tower with one shared embedding space."""

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self, overload

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from catalog.progress import show_progress
from fusion.encoders.adapters import (
    ADAPTERS,
    extract_adapters,
    is_adapter,
    load_adapters,
    merge_adapters,
    published_state,
)
from fusion.encoders.gallery import GalleryAttention
from fusion.encoders.image import ImageEncoder
from fusion.encoders.recomputation import recompute_blocks
from fusion.encoders.text import ENCODERS as TEXT_ENCODERS
from fusion.encoders.text import TEXT_WEIGHTS
from fusion.encoders.tuning import tune
from fusion.encoders.video import ENCODERS as VIDEO_ENCODERS
from fusion.encoders.vocabulary import PAD
from fusion.entities import Labeller
from fusion.features import MODALITIES, Items
from fusion.fusions import FUSIONS, ModalityFeatures
from fusion.search.marker import CONFIG_FILE, ModelMarker

PRODUCTS, GPU_PRODUCTS = 128, 512  # encoded at a time; the number is part of what a vector depends on
PICTURES_AT_ONCE = 128  # encoded without gradients; more would need more memory than a training step


@dataclass(frozen=True)
class ModelConfig:
    """What is needed to build the model before its weights are loaded.

    Attributes:
        vocabulary: Number of token ids.
        image_features: Width of the frozen image features, D.
        region_features: Width of the features of a region, C.
        joint_features: Width of the joint vectors of texts and pictures, J; 0 without a joint encoder.
        fusion: A name of `FUSIONS`.
        dim: Width of the shared space.
        hidden: Width of the hidden layers of the fusion and of the projections of image features and joint vectors.
        dropout: Share dropped in training.
        text_encoder: A name of `fusion.encoders.text.ENCODERS`.
        text_settings: Further arguments of the text encoder.
        video_encoder: A name of `fusion.encoders.video.ENCODERS`, or None where no product has a clip.
        tags: For each kind of tag that products get, the values to choose from.
        entities: The types of entity recognised in texts, as `fusion.entities.Entities.types`.
    """

    vocabulary: int
    image_features: int
    region_features: int
    joint_features: int = 0
    fusion: str = "concat"
    dim: int = 256
    hidden: int = 512
    dropout: float = 0.1
    text_encoder: str = "bilstm"
    text_settings: Mapping[str, Any] = field(default_factory=dict)
    video_encoder: str | None = None
    tags: Mapping[str, Sequence[str]] = field(default_factory=dict)
    entities: Sequence[str] = field(default_factory=list)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read config.json of a folder that `ProductSearchModel.save` wrote."""
        return cls(**json.loads((folder / CONFIG_FILE).read_text()))

    @property
    def modalities(self) -> tuple[str, ...]:
        """The `MODALITIES` that the model can encode."""
        absent = {"video": not self.video_encoder, "joint": not self.joint_features}
        return tuple(name for name in MODALITIES if not absent.get(name))

    @property
    def modality_columns(self) -> list[int]:
        """The columns of `Items.present` for `modalities`."""
        return [MODALITIES.index(name) for name in self.modalities]


class Standardise(nn.Module):
    """Subtracts each feature's mean and divides by its standard deviation, both measured once before training.

    Features of a frozen encoder differ in scale by orders of magnitude, which says nothing about their importance.

    Args:
        features: Their number, D.
    """

    LIMIT = 5.0  # standard deviations; an outlier picture must not dominate the other modalities
    mean: Tensor
    std: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))

    def measure(self, images: np.ndarray) -> None:
        """Take mean and standard deviation from float (N, D), N > 0; constant features become 0."""
        images = images.astype(np.float32)
        std = images.std(0)
        self.mean.copy_(torch.from_numpy(images.mean(0)))
        self.std.copy_(torch.from_numpy(np.where(std > 0, std, np.inf)))

    def forward(self, images: Tensor) -> Tensor:
        return ((images - self.mean) / self.std).clamp(-self.LIMIT, self.LIMIT)


class ProductSearchModel(nn.Module):
    """Two towers that share their encoders; each has its own fusion.

    A batch is a dict from `fusion.features.Items.batch`. Any modality may be missing.

    Attributes:
        image_encoder: While training tunes it, it reads the pictures in place of their features, and all items must
            hold their pictures. Otherwise None; `save` leaves it out.
        late_fusion_weights: float (M,), the weights of `blend` for products, chosen by
            `fusion.search.late_fusion.tune_late_fusion`.
        marker: Identifies the files that `load` read; None for a model in training.
    """

    late_fusion_weights: Tensor
    marker: ModelMarker | None = None

    def __init__(self, config: ModelConfig, temperature: float = 0.07) -> None:
        super().__init__()
        self.config = config
        text_encoder, entity_types = TEXT_ENCODERS[config.text_encoder], len(config.entities)
        self.text = text_encoder(config.vocabulary, config.dim, entity_types, **config.text_settings)
        if config.entities:
            self.labeller = Labeller(config.vocabulary, entity_types)
        self.image_encoder: ImageEncoder | None = None
        self.standardise = Standardise(config.image_features)
        self.image = _projection(config.image_features, config)
        self.gallery = GalleryAttention(config.dim)
        if config.video_encoder:
            self.video = VIDEO_ENCODERS[config.video_encoder](config.dim, config.dropout)
        if config.joint_features:
            self.standardise_joint = Standardise(config.joint_features)
            self.joint = _projection(config.joint_features, config)
        fusion, modality_count = FUSIONS[config.fusion], len(config.modalities)
        self.attends = fusion.attends
        if self.attends:
            self.standardise_regions = Standardise(config.region_features)
            self.narrow = nn.ModuleList(nn.Linear(width, config.dim // 2) for width in self._state_widths())
        self.query_fusion = fusion(modality_count, config.dim, config.hidden, config.dropout)
        self.product_fusion = fusion(modality_count, config.dim, config.hidden, config.dropout)
        self.tags = nn.ModuleList(nn.Linear(config.dim, len(values)) for values in config.tags.values())
        self.register_buffer("late_fusion_weights", torch.zeros(modality_count))
        self.log_scale = nn.Parameter(torch.tensor(1 / temperature).log())

    def _state_widths(self) -> list[int]:
        """The width of the states of each modality: words, regions, moments, and the joint vector as the only one."""
        config = self.config
        widths = {"text": self.text.width, "image": config.region_features, "joint": config.joint_features}
        if config.video_encoder:
            widths["video"] = self.video.width
        return [widths[name] for name in config.modalities]

    def tune(self, text: str = "none", image: str = "none", recompute: bool = False) -> None:
        """Choose which layers of the published encoders training changes.

        Args:
            text: See `fusion.encoders.tuning.tune`.
            image: Likewise.
            recompute: Whether to save memory in the encoders that are tuned, see `recompute_blocks`.

        Raises:
            DataError: as `fusion.encoders.tuning.tune` and `recompute_blocks`.
        """
        networks = [(trunk, text, "train.tune.text") for trunk in self.text.trunks]
        if self.image_encoder:
            networks.append((self.image_encoder.features, image, "train.tune.image"))
        for network, extent, parameter in networks:
            if recompute and extent != "none":
                recompute_blocks(network, parameter)
            tune(network, extent, parameter)

    @property
    def trunks(self) -> list[nn.Module]:
        """The published encoders that are part of the model."""
        return self.text.trunks + ([self.image_encoder] if self.image_encoder else [])

    def _trunk_prefixes(self) -> tuple[str, ...]:
        """What the names of the parameters of `trunks` start with."""
        return tuple(f"{name}." for name, module in self.named_modules() if module in self.trunks)

    @property
    def adapters(self) -> list[nn.Parameter]:
        """The parameters of the adapters of `trunks`."""
        return [
            weight for trunk in self.trunks for name, weight in trunk.named_parameters() if is_adapter(name)
        ]

    def measure(self, pictured: Items) -> None:
        """Measure the mean and standard deviation of image features on items that all have a picture."""
        self.standardise.measure(pictured.images)
        if self.attends:
            self.standardise_regions.measure(pictured.regions.reshape(-1, pictured.regions.shape[2]))

    def measure_joint(self, items: Items) -> None:
        """Measure the mean and standard deviation of joint vectors on items that all have one."""
        self.standardise_joint.measure(items.joint)

    @property
    def scale(self) -> Tensor:
        """One over the learned temperature, at most 100 (as in CLIP, Radford et al., 2021)."""
        return self.log_scale.exp().clamp(max=100.0)

    def encode_modalities(self, batch: dict[str, Tensor], role: str = "product") -> ModalityFeatures:
        """Encode each modality separately, in the order of `ModelConfig.modalities`; role: "query" or "product"."""
        present = batch["present"][:, self.config.modality_columns]
        text, words = self.text(batch["tokens"], self._entity_probabilities(batch["tokens"]), role)
        images, regions = self._encode_images(batch)
        vectors, states = [text, images], [words, regions]
        if self.config.video_encoder:
            clips, moments = self._encode_clips(batch, present[:, 2])
            vectors.append(clips)
            states.append(moments)
        if self.config.joint_features:
            joint = self.standardise_joint(batch["joint"].float())
            vectors.append(self.joint(joint))
            states.append(joint[:, None])
        pooled = _rms_normalise(torch.stack(vectors, 1))
        if not self.attends:
            return ModalityFeatures(pooled, present)
        masks = [
            has_modality[:, None].expand(modality_states.shape[:2])
            for has_modality, modality_states in zip(present.T, states, strict=True)
        ]
        masks[0] = batch["tokens"] != PAD
        narrowed = [layer(wide) for layer, wide in zip(self.narrow, states, strict=True)]
        return ModalityFeatures(pooled, present, tuple(narrowed), tuple(masks))

    def _entity_probabilities(self, tokens: Tensor) -> Tensor:
        """The probability that each word is part of each of `ModelConfig.entities`, float (B, T, E).

        Detached: the labeller learns only from its own loss.
        """
        if not self.config.entities:
            return tokens.new_zeros(*tokens.shape, 0, dtype=torch.float32)
        return self.labeller(tokens).softmax(2)[..., 1:].detach()

    def recognise(self, tokens: Tensor) -> Tensor:
        """The most likely entity of each word.

        Args:
            tokens: int64 (B, T).

        Returns:
            int64 (B, T): n for the n-th of `ModelConfig.entities`, counted from 1; 0 for no entity.
        """
        if not self.config.entities:
            return torch.zeros_like(tokens)
        return self.labeller(tokens).argmax(2) * (tokens != PAD)

    def _encode_images(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Image vectors, float (B, dim), and the features of the main pictures' regions, float (B, R, C)."""
        images, regions = self._image_features(batch)
        regions = self.standardise_regions(regions.float()) if self.attends else regions
        return self.gallery(self.image(self.standardise(images)), batch["picture_mask"]), regions

    def _image_features(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Features of all pictures, float (B, P, D), and of the main ones' regions, (B, R, C); zero where missing."""
        if self.image_encoder is None or "pictures" not in batch:
            return batch["images"], batch["regions"]
        mask = batch["picture_mask"]
        pictures = batch["pictures"].split(len(mask) if torch.is_grad_enabled() else PICTURES_AT_ONCE)
        encoded = zip(*map(self.image_encoder, pictures), strict=True)
        images, regions = (torch.cat(chunks) for chunks in encoded)
        is_main = mask.nonzero()[:, 1] == 0
        padded = _scatter_rows(images, mask.flatten()).unflatten(0, mask.shape)
        return padded, _scatter_rows(regions[is_main], mask[:, 0])

    def _encode_clips(self, batch: dict[str, Tensor], has_clip: Tensor) -> tuple[Tensor, Tensor]:
        """Clip vectors, float (B, dim), and the states of moments, (B, S, W), zero without a clip."""
        if "videos" not in batch:
            zeros = batch["images"].new_zeros(len(has_clip), 1, max(self.config.dim, self.video.width))
            return zeros[:, 0, : self.config.dim], zeros[..., : self.video.width]
        clips, moments = self.video(batch["videos"])
        return _scatter_rows(clips, has_clip), _scatter_rows(moments, has_clip)

    @overload
    def encode_query(self, batch: dict[str, Tensor]) -> Tensor: ...

    @overload
    def encode_query(self, batch: dict[str, Tensor], *, entities: Literal[True]) -> tuple[Tensor, Tensor]: ...

    def encode_query(
        self, batch: dict[str, Tensor], *, entities: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Queries as unit vectors, float (B, dim); with `entities` also the result of `recognise`."""
        vectors = _unit_vectors(self.query_fusion(self.encode_modalities(batch, "query")))
        return (vectors, self.recognise(batch["tokens"])) if entities else vectors

    def encode_product(self, batch: dict[str, Tensor], modalities: Collection[str] = MODALITIES) -> Tensor:
        """Products as unit vectors, float (B, dim), from the named modalities only."""
        features = self._encode_restricted(batch, modalities)
        fused = _unit_vectors(self.product_fusion(features))
        weights = self.late_fusion_weights * features.present
        return blend(fused, self._unimodal_embeddings(features), weights) if weights.any() else fused

    def encode_views(
        self,
        batch: dict[str, Tensor],
        hidden: Tensor,
        swapped: tuple[Tensor, dict[str, Tensor]] | None = None,
    ) -> Tensor:
        """The views of products that training uses: the fused view, then the view of each single modality.

        Args:
            batch: B products.
            hidden: bool (M,) or (B, M), the modalities that the fused view lacks.
            swapped: The rows whose fused view uses other products' pictures, int64 (S,), and a batch of S others.

        Returns:
            Unit vectors, float (B, 1 + M, dim); meaningless where a modality is missing.
        """
        features = self.encode_modalities(batch)
        fused_features = self._swap_pictures(features, *swapped) if swapped else features
        fused = _unit_vectors(self.product_fusion(fused_features.restrict(~hidden)))
        return torch.cat([fused[:, None], self._unimodal_embeddings(features)], 1)

    def _encode_restricted(self, batch: dict[str, Tensor], modalities: Collection[str]) -> ModalityFeatures:
        """Features of the named modalities only."""
        visible = torch.tensor(
            [name in modalities for name in self.config.modalities], device=batch["present"].device
        )
        return self.encode_modalities(batch).restrict(visible)

    def _unimodal_embeddings(self, features: ModalityFeatures) -> Tensor:
        """Products by each single modality, float (B, M, dim); meaningless where it is missing."""
        single = torch.eye(features.present.shape[1], dtype=torch.bool, device=features.present.device)
        return torch.stack(
            [_unit_vectors(self.product_fusion(features.restrict(visible))) for visible in single], 1
        )

    def _swap_pictures(
        self, features: ModalityFeatures, rows: Tensor, others: dict[str, Tensor]
    ) -> ModalityFeatures:
        """Replace the pictures of the items at `rows`, int64 (S,), with those of S others.

        These items have no joint vector: theirs is of their own pictures.
        """
        images, other_regions = self._encode_images(others)
        if self.config.joint_features:
            present = features.present.clone()
            present[rows, self.config.modalities.index("joint")] = False
            features = features._replace(present=present)
        pooled = features.pooled.index_put(
            (rows, torch.ones_like(rows)), _rms_normalise(images).to(features.pooled.dtype)
        )
        if not self.attends:
            return features._replace(pooled=pooled)
        words, regions, *other_states = features.states
        regions = regions.index_copy(0, rows, self.narrow[1](other_regions).to(regions.dtype))
        return features._replace(pooled=pooled, states=(words, regions, *other_states))

    def score_tags(self, products: Tensor) -> list[Tensor]:
        """Score every tag, for each kind in the order of `ModelConfig.tags`.

        Args:
            products: Unit vectors, float (…, dim).

        Returns:
            Logits, float (…, values) each.
        """
        scaled = products * self.config.dim**0.5  # so that features have about unit variance
        return [head(scaled) for head in self.tags]

    @torch.inference_mode()
    def predict_tags(self, products: Items, modalities: Collection[str] = MODALITIES) -> list[np.ndarray]:
        """The index of the best value of each kind of tag in `ModelConfig.tags`, int64 (N,) each.

        Reads the fused view, without late fusion: training tagged that view. Late fusion is tuned for search and would
        weaken words that occur only in texts.
        """
        device = self.log_scale.device
        embeddings = [
            _unit_vectors(self.product_fusion(self._encode_restricted(batch, modalities)))
            for batch in products.batches(device)
        ]
        vectors = torch.cat([torch.empty(0, self.config.dim, device=device), *embeddings])
        return [logits.argmax(-1).cpu().numpy() for logits in self.score_tags(vectors)]

    def save(self, folder: Path) -> None:
        """Write what `load` reads, and the adapters of the image encoder.

        config.json; weights.safetensors, without published encoders; text_encoder.safetensors, the weights of a
        published text encoder; and if there are adapters, adapters.safetensors. The weights of the image encoder are
        part of the featurizer.
        """
        (folder / CONFIG_FILE).write_text(json.dumps(asdict(self.config), indent=2) + "\n")
        prefixes = self._trunk_prefixes()
        state = {
            name: value.contiguous()
            for name, value in self.state_dict().items()
            if not name.startswith(prefixes)
        }
        save_file(state, folder / "weights.safetensors")
        networks: dict[str, nn.Module] = {}
        if self.text.trunks:
            (networks["text"],) = self.text.trunks
            save_file(published_state(networks["text"]), folder / TEXT_WEIGHTS)
        if self.image_encoder:
            networks["image"] = self.image_encoder.features
        factors = {
            f"{encoder}.{name}": factor
            for encoder, network in networks.items()
            for name, factor in extract_adapters(network).items()
        }
        if factors:
            save_file(factors, folder / ADAPTERS)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The inverse of `save`, in evaluation mode on the CPU."""
        model = cls(ModelConfig.load(folder))
        state = load_file(folder / "weights.safetensors")
        for prefix in model._trunk_prefixes():
            published = merge_adapters(load_file(folder / TEXT_WEIGHTS), load_adapters(folder, "text"))
            state |= {prefix + name: value for name, value in published.items()}
        model.load_state_dict(state)
        model.marker = ModelMarker.read(folder)
        return model.eval()


def _projection(features: int, config: ModelConfig) -> nn.Sequential:
    """From standardised features of a frozen encoder to the shared space."""
    return nn.Sequential(
        nn.Dropout(config.dropout),
        nn.Linear(features, config.hidden),
        nn.GELU(),
        nn.Dropout(config.dropout),
        nn.Linear(config.hidden, config.dim),
    )


def _scatter_rows(rows: Tensor, has_row: Tensor) -> Tensor:
    """Put V rows, (V, …), at the V of B positions where `has_row`, bool (B,), is True; the others are zero."""
    source = torch.zeros_like(has_row, dtype=torch.int64).masked_scatter(
        has_row, torch.arange(len(rows), device=has_row.device)
    )
    return rows[source] * has_row.view(-1, *[1] * (rows.ndim - 1))


def _rms_normalise(vectors: Tensor) -> Tensor:
    """RMSNorm (Zhang and Sennrich, 2019), so that no modality dominates the others by its scale."""
    return nn.functional.rms_norm(vectors, vectors.shape[-1:])


def _unit_vectors(vectors: Tensor) -> Tensor:
    return nn.functional.normalize(vectors.float(), dim=-1)


def blend(fused: Tensor, unimodal: Tensor, weights: Tensor) -> Tensor:
    """Late fusion: the direction of the fused embedding plus the weighted embeddings of single modalities.

    Args:
        fused: Unit vectors, float (B, dim).
        unimodal: Unit vectors, float (B, M, dim); any finite value where the weight is 0.
        weights: float (B, M), 0 where a modality is missing.
    """
    return _unit_vectors(fused + (weights[..., None] * unimodal).sum(1))


@torch.inference_mode()
def embed(
    model: ProductSearchModel,
    items: Items,
    role: str,
    modalities: Collection[str] = MODALITIES,
    batch_size: int = 512,
) -> np.ndarray:
    """Encode many items.

    The vector of a product depends on the product alone, whatever items are encoded with it: an index that is refreshed
    equals one that is built from nothing. This does not hold while training tunes the image encoder, nor for queries.

    Args:
        model: In evaluation mode.
        items: Queries or products.
        role: "query" or "product".
        modalities: The modalities of products to encode.
        batch_size: Queries at a time.

    Returns:
        float32 of shape (N, dim); items that have none of the modalities are zero, so they score 0 with everything.
    """
    device = next(model.parameters()).device
    usable = items.has_any(set(modalities) & set(model.config.modalities))
    batches: Iterable[tuple[np.ndarray, dict[str, Tensor]]]
    encode: Callable[[dict[str, Tensor]], Tensor]
    if role == "product":
        batches = items.equal_batches(GPU_PRODUCTS if device.type == "cuda" else PRODUCTS, device)
        encode = partial(model.encode_product, modalities=modalities)
    else:
        positions = np.arange(len(items))
        starts = range(0, len(items), batch_size)
        batches = zip(
            (positions[start : start + batch_size] for start in starts),
            items.batches(device, batch_size),
            strict=True,
        )
        encode = model.encode_query
    embeddings = np.zeros((len(items), model.config.dim), np.float32)
    # training embeds after each epoch, so the bar goes away
    with show_progress(
        total=len(items), desc=f"{role} embeddings", unit=role, leave=False, disable=len(items) <= batch_size
    ) as bar:
        for rows, batch in batches:
            embeddings[rows] = encode(batch)[: len(rows)].cpu().numpy()
            bar.update(len(rows))
    return embeddings * usable[:, None]
