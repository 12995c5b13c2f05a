"""Whatever fits the description of the API, or nearly fits it, is answered, and never with a fault of the server."""

from __future__ import annotations

import json
from typing import Any

import hypothesis
import pytest
import schemathesis

EXAMPLES = 12


@pytest.mark.slow
def test_the_server_has_an_answer_to_everything(server: Any) -> None:
    with server.client() as client:
        described = client.get("/openapi.json").json()
    assert {"/v1/images/generations", "/sdapi/v1/txt2img", "/api/jobs/{job_id}/events"} <= set(described["paths"])
    schema = schemathesis.openapi.from_dict(described)
    schema.config.update(base_url=server.url)
    tried = set()
    statuses: dict[int, int] = {}
    for found in schema.get_all_operations():
        operation = found.ok()
        for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):
            try:
                cases = operation.as_strategy(generation_mode=mode)
            except Exception:  # operations without anything to vary have no negative cases
                continue

            @hypothesis.settings(
                max_examples=EXAMPLES,
                deadline=None,
                database=None,
                derandomize=True,
                suppress_health_check=list(hypothesis.HealthCheck),
            )
            @hypothesis.given(case=cases)
            def answers(case: Any) -> None:
                response = case.call(timeout=30)
                statuses[response.status_code] = statuses.get(response.status_code, 0) + 1
                tried.add((case.method, case.path))
                assert response.status_code < 500, (case.as_curl_command(), response.text)
                if response.status_code >= 400:
                    assert json.loads(response.content)["detail"]

            try:
                answers()
            except hypothesis.errors.Unsatisfiable:
                continue
    operations = {(method.upper(), path) for path, item in described["paths"].items() for method in item}
    assert tried == operations and statuses[200] > 50 and statuses[422] > 50
