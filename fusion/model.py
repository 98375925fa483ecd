"""The model: a query tower and a product tower in one space."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self, overload

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fusion.encoders.image import ImageEncoder
from fusion.encoders.text import ENCODERS as TEXT_ENCODERS
from fusion.encoders.video import ENCODERS as VIDEO_ENCODERS
from fusion.encoders.vocabulary import PAD
from fusion.encoders.weights import freeze
from fusion.entities import Labeller
from fusion.features import MODALITIES, Items
from fusion.fusions import FUSIONS, Parts

AT_ONCE = 128  # pictures encoded where no gradient is wanted; more would take more memory than a step


@dataclass(frozen=True)
class ModelConfig:
    """What is needed to build the model before its weights are read.

    Attributes:
        vocabulary: Number of token ids.
        image_features: Width of the frozen image features, D.
        region_features: Width of those of a region, C.
        fusion: A name of `FUSIONS`.
        dim: Width of the shared space.
        hidden: Width inside the fusion, and between the image features and the shared space.
        dropout: Share dropped in training.
        text_encoder: A name of `fusion.encoders.text.ENCODERS`.
        text_settings: What that one needs besides.
        video_encoder: A name of `fusion.encoders.video.ENCODERS`, or None where no product has a clip.
        tags: What products are tagged with: for each kind of tag the values to choose from.
        entities: What is recognised in texts, as `fusion.entities.Entities.types`.
    """

    vocabulary: int
    image_features: int
    region_features: int
    fusion: str = "concat"
    dim: int = 256
    hidden: int = 512
    dropout: float = 0.1
    text_encoder: str = "bilstm"
    text_settings: Mapping[str, Any] = field(default_factory=dict)
    video_encoder: str | None = None
    tags: Mapping[str, Sequence[str]] = field(default_factory=dict)
    entities: Sequence[str] = field(default_factory=list)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Those of `MODALITIES` that the model knows."""
        return MODALITIES if self.video_encoder else MODALITIES[:2]


class Standardise(nn.Module):
    """Each feature minus its mean, over its standard deviation, as measured once before training.

    Features of a frozen encoder differ in scale by orders of magnitude, and which of them matter is not known.

    Args:
        features: Their number, D.
    """

    LIMIT = 5.0  # standard deviations; a picture unlike all others must not drown what is known besides
    mean: Tensor
    std: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))

    def measure(self, images: np.ndarray) -> None:
        """Take mean and standard deviation from float (N, D), N > 0; features that never vary get no weight."""
        images = images.astype(np.float32)
        std = images.std(0)
        self.mean.copy_(torch.from_numpy(images.mean(0)))
        self.std.copy_(torch.from_numpy(np.where(std > 0, std, np.inf)))

    def forward(self, images: Tensor) -> Tensor:
        return ((images - self.mean) / self.std).clamp(-self.LIMIT, self.LIMIT)


class ProductSearchModel(nn.Module):
    """Two towers that share their encoders; each has a fusion of its own.

    A batch is a dict as `fusion.features.Items.batch` makes it. Any modality may be missing.

    Attributes:
        image_encoder: While training tunes it, reads the pictures themselves in place of their features, and all items
            must come with theirs. Otherwise None; `save` leaves it out.
        late: float (M,), the weights of `blend` for products; `fusion.search.late_fusion.weigh` chooses them.
    """

    late: Tensor

    def __init__(self, config: ModelConfig, temperature: float = 0.07) -> None:
        super().__init__()
        self.config = config
        encoder, kinds = TEXT_ENCODERS[config.text_encoder], len(config.entities)
        self.text = encoder(config.vocabulary, config.dim, kinds, **config.text_settings)
        if config.entities:
            self.labeller = Labeller(config.vocabulary, kinds)
        self.image_encoder: ImageEncoder | None = None
        self.standardise = Standardise(config.image_features)
        self.image = nn.Sequential(
            nn.Dropout(config.dropout),
            nn.Linear(config.image_features, config.hidden),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.hidden, config.dim),
        )
        if config.video_encoder:
            self.video = VIDEO_ENCODERS[config.video_encoder](config.dim, config.dropout)
        fusion, count = FUSIONS[config.fusion], len(config.modalities)
        self.attends = fusion.attends
        if self.attends:
            self.standardise_regions = Standardise(config.region_features)
            widths = [
                self.text.width,
                config.region_features,
                *([self.video.width] if config.video_encoder else []),
            ]
            self.narrow = nn.ModuleList(nn.Linear(width, config.dim // 2) for width in widths)
        self.query_fusion = fusion(count, config.dim, config.hidden, config.dropout)
        self.product_fusion = fusion(count, config.dim, config.hidden, config.dropout)
        self.tags = nn.ModuleList(nn.Linear(config.dim, len(values)) for values in config.tags.values())
        self.register_buffer("late", torch.zeros(count))
        self.log_scale = nn.Parameter(torch.tensor(1 / temperature).log())

    def freeze(self, text: str = "all", image: str = "all") -> None:
        """Say what training leaves as it is of the published encoders.

        Args:
            text: See `fusion.encoders.weights.freeze`.
            image: Likewise.

        Raises:
            DataError: where an encoder has fewer layers.
        """
        for trunk in self.text.trunks:
            freeze(trunk, text, "train.freeze.text")
        if self.image_encoder:
            freeze(self.image_encoder, image, "train.freeze.image")

    @property
    def trunks(self) -> list[nn.Module]:
        """The published encoders that are part of it."""
        return self.text.trunks + ([self.image_encoder] if self.image_encoder else [])

    def measure(self, pictures: Items) -> None:
        """Standardise the image features by those of some items, all with a picture."""
        self.standardise.measure(pictures.images)
        if self.attends:
            self.standardise_regions.measure(pictures.regions.reshape(-1, pictures.regions.shape[2]))

    @property
    def scale(self) -> Tensor:
        """One over the learned temperature, at most 100 (as in CLIP, Radford et al., 2021)."""
        return self.log_scale.exp().clamp(max=100.0)

    def parts(self, batch: dict[str, Tensor]) -> Parts:
        """Each modality by itself, in the order of `ModelConfig.modalities`, before they meet."""
        present = batch["present"][:, : len(self.config.modalities)]
        text, words = self.text(batch["tokens"], self._kinds(batch["tokens"]))
        picture, regions = self._pictures(batch)
        pooled, states = [text, picture], [words, regions]
        if self.config.video_encoder:
            clips, moments = self._clips(batch, present[:, 2])
            pooled.append(clips)
            states.append(moments)
        level = _level(torch.stack(pooled, 1))
        if not self.attends:
            return Parts(level, present)
        inside = [has[:, None].expand(found.shape[:2]) for has, found in zip(present.T, states, strict=True)]
        inside[0] = batch["tokens"][:, : words.shape[1]] != PAD
        narrow = [layer(found) for layer, found in zip(self.narrow, states, strict=True)]
        return Parts(level, present, tuple(narrow), tuple(inside))

    def _kinds(self, tokens: Tensor) -> Tensor:
        """How likely each word is part of each of `ModelConfig.entities`, float (B, T, E).

        The labeller learns from its own loss alone.
        """
        if not self.config.entities:
            return tokens.new_zeros(*tokens.shape, 0, dtype=torch.float32)
        return self.labeller(tokens).softmax(2)[..., 1:].detach()

    def recognise(self, tokens: Tensor) -> Tensor:
        """Which entity each word is most likely part of.

        Args:
            tokens: int64 (B, T).

        Returns:
            int64 (B, T): n for the n-th of `ModelConfig.entities`, counted from 1; 0 for none of them.
        """
        if not self.config.entities:
            return torch.zeros_like(tokens)
        return self.labeller(tokens).argmax(2) * (tokens != PAD)

    def _pictures(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Encode pictures: float (B, dim), and the features of their regions, float (B, R, C)."""
        images, regions = self._features(batch, batch["present"][:, 1])
        regions = self.standardise_regions(regions.float()) if self.attends else regions
        return self.image(self.standardise(images)), regions

    def _features(self, batch: dict[str, Tensor], has: Tensor) -> tuple[Tensor, Tensor]:
        """The features of pictures and of their regions: float (B, D) and (B, R, C), zero for items without one."""
        if self.image_encoder is None or "pictures" not in batch:
            return batch["images"], batch["regions"]
        pictures = batch["pictures"].split(len(has) if torch.is_grad_enabled() else AT_ONCE)
        images, regions = (torch.cat(found) for found in zip(*map(self.image_encoder, pictures), strict=True))
        return _place(images, has), _place(regions, has)

    def _clips(self, batch: dict[str, Tensor], has: Tensor) -> tuple[Tensor, Tensor]:
        """Encode the clips there are: float (B, dim) and (B, S, W), zero for items without one."""
        if "videos" not in batch:
            nothing = batch["images"].new_zeros(len(has), 1, max(self.config.dim, self.video.width))
            return nothing[:, 0, : self.config.dim], nothing[..., : self.video.width]
        clips, moments = self.video(batch["videos"])
        return _place(clips, has), _place(moments, has)

    @overload
    def encode_query(self, batch: dict[str, Tensor]) -> Tensor: ...

    @overload
    def encode_query(self, batch: dict[str, Tensor], *, entities: Literal[True]) -> tuple[Tensor, Tensor]: ...

    def encode_query(
        self, batch: dict[str, Tensor], *, entities: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Queries as unit vectors, float (B, dim); with `entities` also what `recognise` finds in their texts."""
        vectors = _unit(self.query_fusion(self.parts(batch)))
        return (vectors, self.recognise(batch["tokens"])) if entities else vectors

    def encode_product(self, batch: dict[str, Tensor], only: Collection[str] = MODALITIES) -> Tensor:
        """Products as unit vectors, float (B, dim), seen through the modalities named in `only`."""
        parts = self._seen(batch, only)
        whole = _unit(self.product_fusion(parts))
        late = self.late * parts.present
        return blend(whole, self._alone(parts), late) if late.any() else whole

    def views(
        self, batch: dict[str, Tensor], lost: Tensor, swapped: tuple[Tensor, dict[str, Tensor]] | None = None
    ) -> Tensor:
        """Products as training sees them: whole, and through each modality alone.

        Args:
            batch: B products.
            lost: bool (M,) or (B, M), the modalities that the whole view lacks.
            swapped: Which products the whole view shows with others' pictures, int64 (S,), and a batch of S others.

        Returns:
            Unit vectors, float (B, 1 + M, dim); meaningless where a modality is not there.
        """
        parts = self.parts(batch)
        shown = self._with_pictures(parts, *swapped) if swapped else parts
        whole = _unit(self.product_fusion(shown.only(~lost)))
        return torch.cat([whole[:, None], self._alone(parts)], 1)

    def _seen(self, batch: dict[str, Tensor], only: Collection[str]) -> Parts:
        """What products show through the modalities named in `only`."""
        seen = torch.tensor([name in only for name in self.config.modalities], device=batch["present"].device)
        return self.parts(batch).only(seen)

    def _alone(self, parts: Parts) -> Tensor:
        """Products through each modality alone, float (B, M, dim); meaningless where it is not there."""
        alone = torch.eye(parts.present.shape[1], dtype=torch.bool, device=parts.present.device)
        return torch.stack([_unit(self.product_fusion(parts.only(one))) for one in alone], 1)

    def _with_pictures(self, parts: Parts, rows: Tensor, others: dict[str, Tensor]) -> Parts:
        """The items at `rows`, int64 (S,), with the pictures of S others."""
        picture, regions = self._pictures(others)
        pooled = parts.pooled.index_put((rows, torch.ones_like(rows)), _level(picture).to(parts.pooled.dtype))
        if not self.attends:
            return parts._replace(pooled=pooled)
        words, own, *clips = parts.states
        own = own.index_copy(0, rows, self.narrow[1](regions).to(own.dtype))
        return parts._replace(pooled=pooled, states=(words, own, *clips))

    def tag(self, products: Tensor) -> list[Tensor]:
        """How well each tag fits, for each kind in the order of `ModelConfig.tags`.

        Args:
            products: Unit vectors, float (…, dim).

        Returns:
            Logits, float (…, values) each.
        """
        wide = products * self.config.dim**0.5  # each feature about as large as one that is normalised
        return [head(wide) for head in self.tags]

    @torch.inference_mode()
    def best_tags(self, products: Items, only: Collection[str] = MODALITIES) -> list[np.ndarray]:
        """The number of the best value of each kind of tag in `ModelConfig.tags`, int64 (N,) each.

        Read off the view that training tagged: late fusion, chosen for search, would make words that only texts state
        fainter.
        """
        device = self.log_scale.device
        found = [_unit(self.product_fusion(self._seen(batch, only))) for batch in products.batches(device)]
        vectors = torch.cat([torch.empty(0, self.config.dim, device=device), *found])
        return [logits.argmax(-1).cpu().numpy() for logits in self.tag(vectors)]

    def save(self, folder: Path) -> None:
        """Write config.json and weights.safetensors: what reads features, without the image encoder."""
        (folder / "config.json").write_text(json.dumps(asdict(self.config), indent=2) + "\n")
        state = {
            name: value.contiguous()
            for name, value in self.state_dict().items()
            if not name.startswith("image_encoder.")
        }
        save_file(state, folder / "weights.safetensors")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The inverse of `save`, in evaluation mode on the CPU."""
        model = cls(ModelConfig(**json.loads((folder / "config.json").read_text())))
        model.load_state_dict(load_file(folder / "weights.safetensors"))
        return model.eval()


def _place(rows: Tensor, has: Tensor) -> Tensor:
    """The V rows of those items that have something, (V, …), among all B, zero elsewhere."""
    place = torch.zeros_like(has, dtype=torch.int64).masked_scatter(
        has, torch.arange(len(rows), device=has.device)
    )
    return rows[place] * has.view(-1, *[1] * (rows.ndim - 1))


def _level(vectors: Tensor) -> Tensor:
    """As loud as each other (RMSNorm of Zhang and Sennrich, 2019), or pictures drown what words alone tell."""
    return nn.functional.rms_norm(vectors, vectors.shape[-1:])


def _unit(vectors: Tensor) -> Tensor:
    return nn.functional.normalize(vectors.float(), dim=-1)


def blend(whole: Tensor, alone: Tensor, weights: Tensor) -> Tensor:
    """Late fusion: the direction of the whole view plus the weighted views of single modalities.

    Args:
        whole: Unit vectors, float (B, dim).
        alone: Likewise, float (B, M, dim); anything finite where the weight is 0.
        weights: float (B, M), 0 where a modality is not there.
    """
    return _unit(whole + (weights[..., None] * alone).sum(1))


@torch.inference_mode()
def embed(
    model: ProductSearchModel,
    items: Items,
    role: str,
    only: Collection[str] = MODALITIES,
    batch_size: int = 512,
) -> np.ndarray:
    """Encode many items.

    Args:
        model: In evaluation mode.
        items: Queries or products.
        role: "query" or "product".
        only: Modalities a product is seen through.
        batch_size: Items at a time.

    Returns:
        float32 of shape (N, dim); items that have none of the modalities are zero, so they score 0 with everything.
    """
    device = next(model.parameters()).device
    seen = items.seen(set(only) & set(model.config.modalities))
    encode = partial(model.encode_product, only=only) if role == "product" else model.encode_query
    found = [encode(batch).cpu() for batch in items.batches(device, batch_size)]
    return torch.cat([torch.empty(0, model.config.dim), *found]).numpy() * seen[:, None]
