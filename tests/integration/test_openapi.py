"""The real gateway does what its OpenAPI document says: schemathesis makes the requests up from it."""

import uuid
from typing import Any, TypeAlias

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from runengine.rest_json import MAX_INTEGER
from runengine_client import RunEngineClient
from runengine_gateway.openapi import openapi_document
from runengine_gateway.routes import bindings
from runengine_gateway.strict_json import MAX_KEYS

from tests.support.gates import Gates
from tests.support.patience import SECONDS
from tests.support.stack import Stack

Case: TypeAlias = schemathesis.Case[Any]

# Parameters of which a request takes one, as their descriptions say.
ALTERNATIVES = (("workflowName", "campaignId"), ("status", "errorCode", "waiting"))

document = openapi_document(bindings())

# What a payload may hold at any depth. The document says so in words: as a schema, it compiles nowhere.
JSON_VALUE = {
    "type": ["object", "array", "string", "number", "boolean", "null"],
    "pattern": "^[^\\u0000]*$",
    "minimum": -MAX_INTEGER,
    "maximum": MAX_INTEGER,
    "maxProperties": MAX_KEYS,
    "propertyNames": {"pattern": "^[^\\u0000]*$"},
    "additionalProperties": {"$ref": "#/components/schemas/JsonValue"},
    "items": {"$ref": "#/components/schemas/JsonValue"},
}


def narrowed(value: Any) -> Any:
    """The document with JSON_VALUE wherever it permits any value."""
    if isinstance(value, list):
        return [narrowed(each) for each in value]
    if not isinstance(value, dict):
        return value
    found = {key: narrowed(each) for key, each in value.items()}
    if found.keys() == {"examples", "description"}:
        found["$ref"] = "#/components/schemas/JsonValue"
    if found.get("additionalProperties") is True:
        found["additionalProperties"] = {"$ref": "#/components/schemas/JsonValue"}
    if "schemas" in found:
        found["schemas"]["JsonValue"] = JSON_VALUE
    return found


schema = schemathesis.openapi.from_dict(narrowed(document))


def told_reasons(operation: dict[str, Any], status: int) -> list[str]:
    """The reasons that the document has for this status of an operation."""
    response = operation["responses"].get(str(status), {})
    name = response.get("$ref", "").rpartition("/")[2]
    reasons: list[str] = document["components"]["responses"].get(name, {}).get("x-reasons", [])
    return reasons


@schemathesis.check
def problem_is_one_of_those_told(ctx: Any, response: schemathesis.Response, case: Case) -> None:
    """The status is that of the response, the reason one that the document has for it."""
    if response.status_code >= 400 and response.status_code != 405:
        problem = response.json()
        operation = document["paths"][case.operation.path][case.operation.method.lower()]
        assert problem["status"] == response.status_code
        assert problem["reason"] in told_reasons(operation, response.status_code)
        assert ("violations" in problem) == (response.status_code == 400)


@pytest.fixture(scope="session")
def authorization(stack: Stack) -> dict[str, str]:
    # In this case of letters schemathesis knows the header for the token, which it then leaves out or spoils.
    return {"Authorization": f"Bearer {stack.token('org_of_schemathesis')}"}


def make_meaningful(case: Case) -> None:
    """Puts in what no schema can tell: the name of a workflow, the URL of a webhook; and leaves out a token
    that is none, and what does not go together.
    """
    if isinstance(case.body, dict) and isinstance(case.body.get("workflowName"), str):
        case.body["workflowName"] = case.body["workflowName"] and "rejecting"
    if isinstance(case.body, dict) and isinstance(case.body.get("url"), str):
        case.body["url"] = case.body["url"] and "https://hooks.example.com"
    if isinstance(case.body, dict) and isinstance(case.body.get("cron"), str):
        case.body["cron"] = case.body["cron"] and "0 0 1 1 *"
    if isinstance(case.body, dict) and isinstance(case.body.get("timeZone"), str):
        case.body["timeZone"] = case.body["timeZone"] and "Europe/Berlin"
    if case.meta is not None and case.meta.generation.mode.is_positive:
        case.query.pop("pageToken", None)
        case.query.pop("resumeToken", None)
        _keep_one_of_each(case.query)
        if isinstance(case.body, dict) and "action" in case.body:
            _name_runs(case.body)


def _keep_one_of_each(wanted: Any) -> None:
    for group in ALTERNATIVES:
        for name in [name for name in group if name in wanted][1:]:
            del wanted[name]


def _name_runs(body: dict[str, Any]) -> None:
    """Either a filter or ids, of which there is one."""
    if body.get("filter") is not None:
        body.pop("ids", None)
        _keep_one_of_each(body["filter"])
    elif not body.get("ids"):
        body["ids"] = [str(uuid.uuid4())]


# The streams about several runs have no end.
@schema.exclude(path_regex="runs/watch$").parametrize()
@settings(
    max_examples=20,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
def test_made_up_requests_get_the_responses_of_the_document(
    case: Case, stack: Stack, authorization: dict[str, str]
) -> None:
    make_meaningful(case)
    case.call_and_validate(base_url=f"http://{stack.rest_address}", headers=authorization)


class Validated:
    """Calls the gateway, and has each answer validated before the test sees it."""

    def __init__(self, rest: httpx.AsyncClient) -> None:
        self._rest = rest

    async def __call__(
        self, method: str, path: str, status: int, json: object = None, **fields: str
    ) -> httpx.Response:
        answer = await self._rest.request(method, path.format(**fields), json=json)
        assert answer.status_code == status, answer.text
        schema[path][method].validate_response(answer)
        if status >= 400:
            reasons = told_reasons(document["paths"][path][method.lower()], status)
            assert answer.json()["reason"] in reasons
        return answer


async def test_real_runs_look_as_the_document_says(
    rest: httpx.AsyncClient, client: RunEngineClient, gates: Gates
) -> None:
    call = Validated(rest)
    campaign = (await call("POST", "/campaigns", 201, {})).json()
    context = {"campaignId": campaign["id"]}

    bundling = {"workflowName": "bundling", "triggerPayload": {}, "context": context}
    completed = (await call("POST", "/runs", 201, bundling)).json()["id"]
    rejecting = {"workflowName": "rejecting", "context": context}
    failed = (await call("POST", "/runs", 201, rejecting)).json()["id"]
    gated = {"workflowName": "gated", "triggerPayload": {"gates": gates.path}}
    cancelled = (await call("POST", "/runs", 201, gated)).json()["id"]
    for run_id in (completed, failed):
        await client.wait(run_id, timeout_seconds=SECONDS)
    await gates.next()
    await call("DELETE", "/runs/{runId}", 200, runId=cancelled)

    artifacts = []
    for run_id in (completed, failed, cancelled):
        await call("GET", "/runs/{runId}", 200, runId=run_id)
        await call("GET", "/runs/{runId}/events", 200, runId=run_id)
        await call("GET", "/runs/{runId}/output", 200 if run_id == completed else 409, runId=run_id)
        steps = (await call("GET", "/runs/{runId}/steps", 200, runId=run_id)).json()["steps"]
        for step in steps:
            await call("GET", "/runs/{runId}/steps/{id}/data", 200, runId=run_id, id=step["id"])
        artifacts += [each for step in steps for each in step["outputArtifactIds"] or ()]
    for artifact_id in artifacts:
        await call("GET", "/artifacts/{artifactId}", 200, artifactId=artifact_id)
    assert artifacts

    page = await call("GET", "/campaigns/{campaignId}/runs", 200, campaignId=campaign["id"])
    assert page.json()["total"] == 2
    live = await call("GET", "/campaigns/{campaignId}", 200, campaignId=campaign["id"])
    assert live.json()["latestRunId"] is not None

    await call("POST", "/runs/{runId}/retry", 409, runId=completed)
    await call("POST", "/runs/{runId}/resume", 409, {"value": None}, runId=completed)
    await call("DELETE", "/runs/{runId}", 409, runId=completed)
    await call("POST", "/runs/{runId}/retry", 200, runId=failed)
    nobody = str(uuid.uuid4())
    await call("GET", "/runs/{runId}", 404, runId=nobody)
    await call("GET", "/runs/{runId}/steps/{id}/data", 404, runId=completed, id=nobody)
    await call("GET", "/campaigns/{campaignId}", 404, campaignId=nobody)
    await call("GET", "/artifacts/{artifactId}", 404, artifactId=nobody)
    del rest.headers["authorization"]
    await call("GET", "/runs/{runId}", 401, runId=completed)


async def test_the_document_served_is_the_one_tested(stack: Stack, rest: httpx.AsyncClient) -> None:
    del rest.headers["authorization"]
    answer = await rest.get("/openapi.json")
    assert answer.status_code == 200
    assert answer.json() == document
