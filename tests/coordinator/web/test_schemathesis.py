"""Requests that schemathesis makes of the OpenAPI document: whatever is sent, by whomever, is answered as documented.

Each operation is asked with what the document allows and with what it does not; once with names that do not exist, and
once with those that do, so that what lies behind the name is reached, too. The same requests in every run.
"""

import contextlib

import hypothesis
import pytest
import schemathesis
from schemathesis import GenerationMode, checks
from schemathesis.specs.openapi import checks as openapi_checks

from tailfleet_schema import schedule

EXAMPLES = {"operator": 15, "board": 15, "viewer": 3, "stranger": 1}
"""Of each operation, way and role: most of what the latter two send is refused at the door."""

CHECKS = [
    checks.not_a_server_error,
    openapi_checks.status_code_conformance,
    openapi_checks.content_type_conformance,
    openapi_checks.response_schema_conformance,
]


@pytest.fixture
def farm(lab, serve):
    """A coordinator that makes nobody wait, with a board at work on a campaign."""
    live = serve(poll_seconds=0.0)
    board_id = live.board("nano")
    # Of a real board: who asks for the true curve of a virtual one has a process started.
    live.curve = lab.curve("c0", "nano")
    lab.campaign("c1", "nano")
    live.job = lab.sweep("c1", board_id)
    assert lab.claim(board_id)
    live.digest = schedule.dense("tiny", lab.model.geometry).digest
    lab.store.add_schedule(schedule.dense("tiny", lab.model.geometry))
    live.sha256 = live.artifacts.put(b"weights")
    return live


def strategies(operation, names):
    known = {parameter.name: names[parameter.name] for parameter in operation.path_parameters}
    for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
        for path in ({}, {"path_parameters": known}) if known else ({},):
            yield operation.as_strategy(generation_mode=mode, **path)


@pytest.mark.parametrize("role", EXAMPLES)
def test_whatever_is_sent_is_answered_as_documented(farm, role):
    token = {"operator": farm.operator, "viewer": farm.viewer, "board": "nano-token", "stranger": "guess"}[role]
    names = {"name": "nano", "job_id": farm.job.id, "campaign_id": "c1", "digest": farm.digest, "sha256": farm.sha256}
    names["curve_id"] = farm.curve
    document = schemathesis.openapi.from_url(
        farm.url + "/v1/openapi.json", headers={"Authorization": f"Bearer {farm.viewer}"}
    )
    document.config.generation.with_security_parameters = False
    asked = []

    def ask(strategy):
        @hypothesis.given(case=strategy)
        @hypothesis.settings(
            max_examples=EXAMPLES[role],
            derandomize=True,
            database=None,
            deadline=None,
            phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        def send(case):
            answer = case.call(headers={"Authorization": f"Bearer {token}"}, timeout=30)
            asked.append(answer.status_code)
            case.validate_response(answer, checks=CHECKS)

        # What has no parameters, or names alone, cannot be asked wrongly.
        with contextlib.suppress(hypothesis.errors.Unsatisfiable):
            send()

    for found in document.get_all_operations():
        for strategy in strategies(found.ok(), names):
            ask(strategy)
    if role == "stranger":
        assert set(asked) == {401}
    else:
        assert set(asked) >= {200, 403, 404, 422}
