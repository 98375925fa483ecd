"""The registered model under `mlflow models serve`: every response is strict JSON with a documented status."""

import base64
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from catalog import store
from fusion.search.filters import FILTERS
from fusion.search.hybrid import HYBRID_FILE
from registry import local_stack, mlflow_runs, mlflow_store
from registry.model_logging import create_signature, ensure_registered
from serving.pyfunc import MAX_K, PARAMETERS
from validation.champion_comparison import PROFILE
from validation.query_splits import QUERY_SPLITS

pytestmark = pytest.mark.slow

NAME = "product-search"
JSON = {"Content-Type": "application/json"}
TIMEOUT = 60  # seconds for one response


@pytest.fixture(scope="module")
def address(
    model: Path,
    index: Path,
    evaluation: Path,
    report: Path,
    empty_store: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    """The endpoint of a model over 60 products."""
    import mlflow

    root = tmp_path_factory.mktemp("served")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root / 'mlflow.db'}")
        patch.chdir(root)
        (root / "mlflow.db").write_bytes(empty_store.read_bytes())
        mlflow.set_tracking_uri(None)
        client = mlflow_store.connect()
        with mlflow_runs.open_chain_run("chain", "training", {}) as run:
            artifacts = {"model": model, "index": index, "hybrid": evaluation / HYBRID_FILE}
            artifacts |= {"profile": report / PROFILE, "query_splits": report / QUERY_SPLITS}
            version = ensure_registered(client, run, artifacts, create_signature(model), NAME, {})
        with local_stack.serve_model(f"models:/{NAME}/{version.version}", root / "log") as served:
            yield served
        mlflow.set_tracking_uri(None)


def parse_strict_json(text: str) -> Any:
    """Parse JSON, without Python's NaN and Infinity."""

    def raise_error(constant: str) -> NoReturn:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=raise_error)


def post(address: str, body: Any) -> requests.Response:
    return requests.post(address, data=json.dumps(body).encode(), headers=JSON, timeout=TIMEOUT)


def error_of(answer: requests.Response) -> str:
    """The last line of an error message."""
    assert answer.status_code == 400, answer.text
    return str(parse_strict_json(answer.text)["message"]).splitlines()[-1]


def test_products_without_a_value_have_null(address: str, data: Path) -> None:
    answer = post(address, {"dataframe_records": [{"text": "red"}], "params": {"k": 60}})
    assert answer.status_code == 200
    products = {product["product_id"]: product for product in parse_strict_json(answer.text)["predictions"]}
    rows = store.read_table(data, "products", ["product_id", *FILTERS, "price"]).to_pylist()
    assert any(value is None for row in rows for value in row.values())
    assert all(products[row["product_id"]] | row == products[row["product_id"]] for row in rows)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            {"dataframe_records": [{"query": "x"}]},
            "Error: query 0: unknown column `query`; the columns are text, image",
        ),
        (
            {"dataframe_records": [{"text": "x"}, {"text": "y", "txt": "x"}]},
            "Error: query 1: unknown column `txt`; the columns are text, image",
        ),
        (
            {"dataframe_records": [{"text": "x"}], "params": {"K": 5}},
            "Error: unknown parameter `K`; the parameters are k, filters, min_price, max_price, available, collapse",
        ),
        ({"dataframe_records": [{"text": "x"}, {}]}, "Error: query 1: give `text`, `image` (base64) or both"),
        ({"dataframe_records": [{"text": "x"}, {"text": 5}]}, "Error: query 1: `text` must be a text, got 5"),
        ({"dataframe_records": [{"text": "x"}, {"image": "?"}]}, "Error: query 1: `image` is not base64 ("),
        ({"inputs": {"text": ["x"]}}, "Error: send the queries as `dataframe_records` or `dataframe_split`"),
    ],
)
def test_the_last_line_of_an_error_names_the_cause(address: str, body: dict[str, Any], expected: str) -> None:
    assert error_of(post(address, body)).startswith(expected)


@pytest.mark.parametrize(
    ("params", "name"),
    [
        ({"k": "many"}, "'k'"),
        ({"k": 2.5}, "'k'"),
        ({"k": 0}, "`k`"),
        ({"k": 10**9}, "`k`"),
        ({"k": 10**30}, "k"),
        ({"filters": ["red"]}, "'filters'"),
        ({"filters": {"color": "red"}}, "`color`"),
        ({"filters": {"color": [5]}}, "`color`"),
        ({"filters": {"color": [None]}}, "color"),
        ({"filters": {"size": ["XL"]}}, "'size'"),
        ({"min_price": float("nan")}, "nan"),
        ({"min_price": -1}, "min_price"),
        ({"max_price": "5"}, "'max_price'"),
        ({"min_price": 5, "max_price": 4}, "min_price"),
        (["k", 5], "Parameters must be a dictionary"),
    ],
)
def test_a_parameter_of_a_wrong_type_or_value_is_named(address: str, params: Any, name: str) -> None:
    assert name in error_of(post(address, {"dataframe_records": [{"text": "red"}], "params": params}))


def test_another_content_type_is_rejected(address: str) -> None:
    answer = requests.post(address, data=b"red", headers={"Content-Type": "text/plain"}, timeout=TIMEOUT)
    assert answer.status_code == 415


words = st.text(max_size=20)
plain = st.none() | st.booleans() | st.integers() | st.floats() | words
anything = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3), max_leaves=8
)
base64s = st.binary(max_size=40).map(lambda data: base64.b64encode(data).decode())
unicode = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
texts = st.sampled_from(["red shirt", "紅色 杯子", "x" * 5000, "\0", "🛒"]) | unicode.filter(str.strip)
good_rows = st.lists(
    st.fixed_dictionaries({"text": texts}, optional={"image": st.none()}), min_size=1, max_size=3
)
good_params = st.fixed_dictionaries(
    {},
    optional={
        "k": st.integers(1, MAX_K),
        "filters": st.dictionaries(st.sampled_from(FILTERS), st.lists(unicode, max_size=3)),
        "min_price": st.floats(0, 10) | st.none(),
        "max_price": st.floats(10, 1e6) | st.none(),
    },
)
rows = st.dictionaries(
    st.sampled_from(["text", "image", "query", "Text"]) | words, texts | base64s | anything, max_size=3
)
params = st.dictionaries(st.sampled_from([*PARAMETERS, "K"]) | words, anything, max_size=3) | anything
FORMATS = ("dataframe_records", "dataframe_split", "inputs", "instances")
good_requests = st.fixed_dictionaries({"dataframe_records": good_rows}, optional={"params": good_params})
other_requests = st.one_of(
    st.fixed_dictionaries({"dataframe_records": st.lists(rows, max_size=3)}, optional={"params": params}),
    st.fixed_dictionaries({"dataframe_records": good_rows, "params": params}),
    st.dictionaries(st.sampled_from([*FORMATS, "params"]) | words, anything, max_size=3),
    anything,
)
all_requests = st.tuples(st.just(True), good_requests) | st.tuples(st.just(False), other_requests)
hypothesis = settings(deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))


def test_a_thousand_requests(address: str) -> None:
    """Valid requests get products; other requests get products or an error message."""
    statuses: Counter[int] = Counter()

    @settings(hypothesis, max_examples=1000)
    @given(all_requests)
    def check(drawn: tuple[bool, Any]) -> None:
        good, body = drawn
        answer = post(address, body)
        statuses[answer.status_code] += 1
        content = parse_strict_json(answer.text)
        if answer.status_code == 200:
            columns = {"query", "rank", "score", "product_id", "title"}
            assert all(columns <= product.keys() for product in content["predictions"])
        else:
            assert not good and answer.status_code == 400, answer.text
            assert content["error_code"] and content["message"].splitlines()[-1].strip()

    check()
    assert statuses.total() >= 1000 and statuses.keys() == {200, 400}
    assert min(statuses.values()) > 100


def test_bytes_of_any_kind(address: str) -> None:
    kinds = [
        "application/json",
        "text/csv",
        "application/vnd.apache.parquet",
        "text/html",
        "application/json; v=1",
    ]
    bodies = st.binary(max_size=60) | st.sampled_from([b"text\nred", b"query\nred", b"[" * 500, b"{", b""])

    @settings(hypothesis, max_examples=200)
    @given(st.sampled_from(kinds), bodies)
    def check(kind: str, body: bytes) -> None:
        answer = requests.post(address, data=body, headers={"Content-Type": kind}, timeout=TIMEOUT)
        assert answer.status_code in (200, 400, 415), (answer.status_code, answer.text)
        if answer.status_code != 415:
            parse_strict_json(answer.text)

    check()
