"""The headers of a successful response, for the OpenAPI document."""

from runengine.error_reasons import REASONS

from runengine_gateway.openapi_errors import Json
from runengine_gateway.routes import Binding

_TRIGGER = "runengine.v1.RunService.TriggerRun"
_QUEUES = {f"runengine.v1.RunService.{name}" for name in ("TriggerRun", "RetryRun", "ResumeRun")}

_REPLAYED: Json = {
    "description": "There when the key had been used: this is the response to that call.",
    "schema": {"type": "string", "const": "true"},
}
_WORKERS: Json = {
    "description": "There when no worker serves the run's workflow at the moment: the run waits for one.",
    "schema": {"type": "string", "const": "0"},
}
_CAMPAIGN: Json = {
    "description": "There when the campaign that the run's context names does not exist: the run will not "
    "update it. Not with a response that is replayed.",
    "schema": {"type": "string", "const": "missing"},
}


def takes_idempotency_key(rule: Binding) -> bool:
    """Whether the call has an idempotency key."""
    return REASONS["IDEMPOTENCY_KEY_REUSED"].comes_from(rule.rpc.name)


def headers_of(rule: Binding) -> dict[str, Json]:
    """The headers that a success may have, by name."""
    headers: dict[str, Json] = {}
    if takes_idempotency_key(rule):
        headers["Idempotency-Replayed"] = _REPLAYED
    if rule.rpc.full_name in _QUEUES:
        headers["Runengine-Workers"] = _WORKERS
    if rule.rpc.full_name == _TRIGGER:
        headers["Runengine-Campaign"] = _CAMPAIGN
    return headers
