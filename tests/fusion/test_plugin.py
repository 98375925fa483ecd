"""A fusion from outside the package: one new file in the folder `plugins`."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

import plugins
from components.params import TrainParams
from fusion.features import Items
from fusion.fusions import FUSIONS
from fusion.model import ProductSearchModel, embed

NAME, MODULE = "weighted_mean", "outside_fusion"
SOURCE = '''
import torch
from torch import Tensor, nn

from fusion.fusions import FUSIONS, Fusion, ModalityFeatures


@FUSIONS("weighted_mean")
class WeightedMean(Fusion):
    """A learned weight for each modality."""

    def __init__(self, modalities: int, dim: int, hidden: int, dropout: float) -> None:
        super().__init__(modalities, dim, hidden, dropout)
        self.weights = nn.Parameter(torch.ones(modalities))

    def forward(self, features: ModalityFeatures) -> Tensor:
        weights = self.weights * features.present
        return (weights[..., None] * features.pooled).sum(1)
'''


def forget_plugin() -> None:
    """Undo the import of the plugin."""
    FUSIONS.entries.pop(NAME, None)
    sys.modules.pop(f"plugins.{MODULE}", None)
    vars(plugins).pop(MODULE, None)
    plugins._import_modules.cache_clear()


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a fusion in a folder of plugins outside the repository."""
    folder = tmp_path / "plugins"
    folder.mkdir()
    (folder / f"{MODULE}.py").write_text(SOURCE)
    monkeypatch.setattr(plugins, "__path__", [*plugins.__path__, str(folder)])
    yield NAME
    forget_plugin()


def test_a_plugin_is_trained_saved_and_loaded(
    plugin: str,
    make_model: Callable[..., ProductSearchModel],
    fit_world: Callable[..., list[dict[str, float]]],
    items: Items,
    tmp_path: Path,
) -> None:
    model = make_model(fusion=plugin)
    history = fit_world(model, tmp_path / "checkpoint.pt", epochs=3)
    assert history[-1]["loss"] < history[0]["loss"]
    weights = model.state_dict()["product_fusion.weights"]
    assert not torch.equal(weights, torch.ones_like(weights)), "its weights are trained"
    model.save(tmp_path)
    forget_plugin()  # as in a new process
    loaded = ProductSearchModel.load(tmp_path)
    assert np.array_equal(embed(loaded, items, "product"), embed(model, items, "product"))


def test_params_accept_a_plugin(plugin: str) -> None:
    assert TrainParams(fusion=plugin).fusion == plugin
    with pytest.raises(ValidationError, match=rf"unknown fusion 'sum'; known are concat, .*, {plugin}"):
        TrainParams(fusion="sum")


def test_params_refuse_a_plugin_that_is_not_there() -> None:
    with pytest.raises(ValidationError, match=f"unknown fusion '{NAME}'"):
        TrainParams(fusion=NAME)
