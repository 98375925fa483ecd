"""The service keeps what its OpenAPI description promises: schemathesis draws requests from it."""

import base64
from collections import Counter
from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks
from stub_service import StubService, run_service

from serving.params import ServiceParams

pytestmark = pytest.mark.slow

EXAMPLES = 50  # of each endpoint and mode
INPUTS = ("/search", "/similar/{product_id}", "/events")  # the others take none
ANSWERS = {
    GenerationMode.POSITIVE: list(zip(INPUTS, (200, 404, 202), strict=True)),
    GenerationMode.NEGATIVE: [(path, 422) for path in INPUTS],
}
# a description cannot say that a text or a picture is needed, nor min_price ≤ max_price
LEFT_OUT = {"positive_data_acceptance"}

schemathesis.openapi.format("byte", st.binary(max_size=60).map(lambda data: base64.b64encode(data).decode()))
load_all_checks()
checks = [check for check in CHECKS.get_all() if check.__name__ not in LEFT_OUT]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StubService]:
    with run_service(tmp_path_factory.mktemp("service"), ServiceParams(max_k=50)) as running:
        yield running


@pytest.mark.parametrize("mode", GenerationMode)
def test_every_answer_is_as_described(service: StubService, mode: GenerationMode) -> None:
    """Requests that follow the description, and requests that break it."""
    schema = schemathesis.openapi.from_url(f"{service.address}/openapi.json")
    statuses: Counter[tuple[str, int]] = Counter()
    for operation in (result.ok() for result in schema.get_all_operations()):
        if mode is GenerationMode.NEGATIVE and operation.path not in INPUTS:
            continue

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def send(case: schemathesis.Case) -> None:
            answer = case.call_and_validate(checks=checks, timeout=20)
            assert len(answer.headers["x-request-id"][0]) == 32
            statuses[case.operation.path, answer.status_code] += 1

        send()
    expected = ANSWERS[mode]
    assert all(statuses[answer] >= EXAMPLES // 5 for answer in expected), statuses


def test_the_limits_are_described(service: StubService) -> None:
    description = service.get("/openapi.json").json()
    k = description["components"]["schemas"]["SearchRequest"]["properties"]["k"]
    assert (k["minimum"], k["maximum"], k["default"]) == (1, 50, 10)
    assert {"400", "413", "415", "422", "503", "504"} <= description["paths"]["/search"]["post"][
        "responses"
    ].keys()
