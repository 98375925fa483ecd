"""The simulation is that of the judge's interleaving and of the catalogue's click model."""

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from vitrine_judge.interleaving import OUTCOMES, preference, team_draft

from catalog.clicks import fit_position_model

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    return importlib.import_module("interleaving")


class Coins:
    """A generator whose coins are given."""

    def __init__(self, coins: np.ndarray) -> None:
        self.coins = iter(coins.tolist())

    def integers(self, _: int) -> int:
        return int(next(self.coins))


def test_lists_are_those_of_team_draft(bench: ModuleType) -> None:
    rng = np.random.default_rng(3)
    sessions = bench.draw_sessions((0.3, 0.1), 50, rng)
    coins = rng.integers(2, size=(50, bench.K // 2))
    products, teams = bench.draft(sessions.rankings, coins)
    for row, (first, second) in enumerate(sessions.rankings.swapaxes(0, 1).tolist()):
        generator: Any = Coins(coins[row])
        assert team_draft(first, second, bench.K, generator) == (products[row].tolist(), teams[row].tolist())


def test_clicks_have_the_examination_of_the_position_model(bench: ModuleType) -> None:
    rng = np.random.default_rng(4)
    attractiveness = np.tile(bench.ATTRACTIVENESS, (4000, 1))
    products = rng.permuted(np.tile(np.arange(bench.K), (4000, 1)), axis=1)
    clicks = rng.random(products.shape) < bench.click_chances(attractiveness, products)
    positions = np.tile(np.arange(bench.K), 4000)
    _, examination = fit_position_model(products.ravel(), positions, clicks.ravel())
    assert examination == pytest.approx(bench.EXAMINATION, abs=0.05)


def test_the_distribution_of_leads_is_that_of_clicks(bench: ModuleType) -> None:
    rng = np.random.default_rng(5)
    sessions = bench.draw_sessions((0.1, 0.6), 20_000, rng)
    chances = bench.click_chances(sessions.attractiveness, sessions.products)
    clicks = rng.random(chances.shape) < chances
    leads = np.where(clicks, 1 - 2 * sessions.teams, 0).sum(1)
    shares = np.bincount(leads + bench.K // 2, minlength=bench.K + 1) / len(leads)
    assert bench.lead_distribution(chances, sessions.teams) == pytest.approx(shares, abs=0.015)


def test_the_test_of_counts_is_the_verdict_of_the_judge(bench: ModuleType) -> None:
    counts = np.array([[100, 500, lead] for lead in range(40, 200, 5)])
    verdicts = [preference(np.repeat(OUTCOMES, row)).winner != "undecided" for row in counts]
    assert bench.sequence_test(counts).tolist() == verdicts
    assert True in verdicts and False in verdicts
