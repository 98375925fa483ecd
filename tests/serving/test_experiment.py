from collections.abc import Callable
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.experiment import Arm, Experiment
from serving.params import ExperimentParams

KINDS = ("interleaving", "ab", "shadow")
SESSIONS = [f"session-{number}" for number in range(4000)]
IDS = st.lists(st.sampled_from("abcdefghij"), unique=True, max_size=8)
NAMES = st.text(max_size=8)


def create(
    kind: str = "interleaving", share: float = 0.5, seed: int = 0, pair: tuple[str, str] = ("1", "2")
) -> Experiment:
    return Experiment(ExperimentParams(kind=kind, share=share, seed=seed), *pair)  # type: ignore[arg-type]


def arms(experiment: Experiment) -> list[Arm | None]:
    return [experiment.arm(session) for session in SESSIONS]


def products(
    ids: list[str], version: str, groups: Callable[[str], str | None] = lambda _: None
) -> list[dict[str, Any]]:
    return [{"product_id": name, "version": version, "group_id": groups(name)} for name in ids]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_the_share_of_the_sessions_takes_part(kind: str, share: float) -> None:
    drawn = arms(create(kind, share))
    assert sum(arm is not None for arm in drawn) / len(drawn) == pytest.approx(share, abs=0.025)
    assert {arm for arm in drawn if arm} <= set(get_args(Arm))
    if share in (0.0, 1.0):
        assert (None in drawn) == (share == 0.0)


def test_half_of_an_ab_test_sees_the_challenger() -> None:
    drawn = [arm for arm in arms(create("ab")) if arm]
    assert drawn.count("challenger") / len(drawn) == pytest.approx(0.5, abs=0.03)
    assert set(drawn) == {"champion", "challenger"}


@given(NAMES, st.sampled_from(KINDS), st.integers(0, 5))
def test_an_arm_is_sticky(session: str, kind: str, seed: int) -> None:
    assert create(kind, seed=seed).arm(session) == create(kind, seed=seed).arm(session)


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_session_there_is_no_experiment(kind: str) -> None:
    assert create(kind, 1.0).arm(None) is None


@given(NAMES, st.sampled_from(KINDS), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_keeps_those_who_take_part(
    session: str, kind: str, share: float, other: float
) -> None:
    low, high = sorted((share, other))
    if arm := create(kind, low).arm(session):
        assert create(kind, high).arm(session) == arm


@pytest.mark.parametrize(
    "other",
    [
        create("ab", pair=("1", "3")),
        create("ab", pair=("2", "1")),
        create("ab", seed=1),
        create("ab", pair=("12", "")),
    ],
)
def test_another_experiment_draws_anew(other: Experiment) -> None:
    """Independent: of those in an arm here, as many as of all are in each arm there."""
    pairs = list(zip(arms(create("ab")), arms(other), strict=True))
    for arm in (None, "champion", "challenger"):
        there = [second for first, second in pairs if first == arm]
        assert there.count("challenger") / len(there) == pytest.approx(0.25, abs=0.05)
        assert there.count(None) / len(there) == pytest.approx(0.5, abs=0.05)


@given(IDS, IDS, st.integers(1, 10), NAMES, NAMES)
def test_a_merged_list_keeps_the_order_of_both_and_shows_no_product_twice(
    champion: list[str], challenger: list[str], k: int, session: str, query: str
) -> None:
    arguments = products(champion, "1"), products(challenger, "2"), k, session, query
    shown = create().merge(*arguments)
    ids = [product["product_id"] for product in shown.products]
    assert len(ids) == len(set(ids)) == min(k, len({*champion[:k], *challenger[:k]}))
    assert [product["version"] for product in shown.products] == shown.placed_by
    for version, ranking in (("1", champion), ("2", challenger)):
        places = [ranking.index(name) for name, by in zip(ids, shown.placed_by, strict=True) if by == version]
        assert places == sorted(places)
    assert create().merge(*arguments) == shown, "a repeated search shows the same list"
    is_equal = champion[:k] == challenger[:k]
    assert shown.arm == ("champion" if is_equal else "interleaved")
    if is_equal:
        assert set(shown.placed_by) <= {"1"}


def test_the_coins_depend_on_session_query_and_pair() -> None:
    lists = products(list("abcdef"), "1"), products(list("fedcba"), "2")

    def first(session: str, query: str, pair: tuple[str, str] = ("1", "2")) -> str:
        return create(pair=pair).merge(*lists, 6, session, query).placed_by[0]

    for values in (
        [first(session, "mug") for session in SESSIONS[:400]],
        [first("a", session) for session in SESSIONS[:400]],
        [first("a", "mug", ("1", session)) == "1" for session in SESSIONS[:400]],
    ):
        assert values.count(values[0]) / 400 == pytest.approx(0.5, abs=0.1)


@given(IDS, IDS, st.integers(1, 10))
def test_a_collapsed_list_has_one_product_of_a_group(
    champion: list[str], challenger: list[str], k: int
) -> None:
    def group(name: str) -> str | None:
        return None if name in "ab" else "cd" if name in "cd" else "rest"

    champion, challenger = (
        list({group(name) or name: name for name in ranking}.values()) for ranking in (champion, challenger)
    )
    shown = create().merge(
        products(champion, "1", group), products(challenger, "2", group), k, "s", "q", collapse=True
    )
    groups = [group(product["product_id"]) for product in shown.products]
    named = [name for name in groups if name]
    assert len(named) == len(set(named))
    assert [product["version"] for product in shown.products] == shown.placed_by
    different = champion[:k] != challenger[:k]
    assert shown.arm == ("interleaved" if different else "champion"), "another variant is another result"
