"""The OpenAPI document is true: whatever is sent to any route, the answer is one that it names, and never a 5xx."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from server.app import create_app
from server.settings import Settings

# Threads of the service (those of Ray's router behind a cluster) draw random numbers while a case is being drawn.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Do not use the .random. module:hypothesis.errors.HypothesisDeprecationWarning"
)

CHECKS = [
    schemathesis.checks.not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
DOCUMENT = create_app(Settings()).openapi()
OPERATIONS = {
    f"{method.upper()} {path}": (method, path) for path, methods in DOCUMENT["paths"].items() for method in methods
}


def probe(service: Any, name: str, *, examples: int) -> None:
    method, path = OPERATIONS[name]
    operation = schemathesis.openapi.from_dict(DOCUMENT)[path][method]

    @settings(
        max_examples=examples, deadline=None, derandomize=True, database=None, phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=operation.as_strategy())
    def run(case: Any) -> None:
        case.validate_response(case.call(base_url=service.url, timeout=20), checks=CHECKS)

    run()
    assert service.uploads() == []


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_route_answers_a_few_requests_as_it_says(queueing, name):
    probe(queueing.service, name, examples=6)


@pytest.mark.slow
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_route_answers_many_requests_as_it_says(queueing, name):
    probe(queueing.service, name, examples=250)
