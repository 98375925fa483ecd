"""Random runs and judgements, the same for every test of the judge."""

from collections.abc import Callable

import numpy as np
import pytest

Nested = dict[str, dict[str, float]]


@pytest.fixture
def random_pair() -> Callable[..., tuple[Nested, Nested]]:
    """A seed → a run without ties, and judgements of the same queries, of graded relevance and mixed sizes."""

    def draw(seed: int, queries: int = 40, products: int = 60) -> tuple[Nested, Nested]:
        rng = np.random.default_rng(seed)
        names = [f"p{i}" for i in range(products)]

        def some(values: Callable[[int], np.ndarray]) -> dict[str, float]:
            chosen = rng.choice(names, rng.integers(1, products), replace=False).tolist()
            return dict(zip(chosen, values(len(chosen)).tolist(), strict=True))

        ids = [f"q{i}" for i in range(queries)]
        # Whole numbers, so that trec_eval's single precision cannot make ties of them.
        run = {query: some(lambda n: rng.permutation(1000)[:n].astype(float)) for query in ids}
        qrels = {query: some(lambda n: rng.integers(-1, 4, n)) for query in ids}
        return run, qrels

    return draw
