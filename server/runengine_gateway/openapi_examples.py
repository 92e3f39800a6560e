"""The examples of the OpenAPI document. A field or an enum that has none here gets a sample of its type."""

from collections.abc import Mapping

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor

from runengine_gateway.openapi_errors import Json

# By the name of an enum or a field, or of a field with its message's before it.
_EXAMPLES: Mapping[str, object] = {
    "RunStatus": "completed",
    "StepStatus": "completed",
    "CampaignStatus": "live",
    "workflow_name": "campaign-bundle",
    "trigger_payload": {
        "product": {"name": "Solar Kettle"},
        "audience": "campers",
        "channels": ["email", "instagram"],
        "tone": "friendly",
        "offer": "20 % off until Sunday",
        "locale": "en",
    },
    "context": {"campaignId": "0198d6a2-7c1e-7b53-9f4e-3d2c1b0a9f8e"},
    "output": {"headline": "Boil by sunlight"},
    "note": None,
    "input": {"brief": "Boil by sunlight", "channel": "email"},
    "input_note": None,
    "update": {"copy": {"email": "Boil water by sunlight."}},
    "update_note": None,
    "step_id": "copywriting",
    "skill_id": "copywriting",
    "code": "STEP_FAILED",
    "message": "ValueError: the brief has no audience",
    "duration_ms": 2077,
    "to_status": "queued",
    "bulk_operation_id": None,
    "BulkAction": "retry",
    "BulkOperationStatus": "running",
    "BulkOutcome": "done",
    "CreateBulkOperationRequest.reason": "the mail server was down",
    "BulkOperation.reason": "the mail server was down",
    "BulkRefusals.reason": "RUN_NOT_RETRYABLE",
    "BulkOperationItem.reason": None,
    "pace": 100,
    "cron": "0 9 * * MON-FRI",
    "time_zone": "Europe/Berlin",
    "ScheduleOverlap": "skip",
    "url": "https://hooks.example.com/runengine",
    "secret": None,
    "events": "run.completed",
    "WebhookDelivery.event": "run.completed",
    "WebhookDeliveryStatus": "delivered",
    "WebhookDelivery.error": None,
    "next_attempt_at": None,
    "response_status": 204,
    "error_code": "STEP_FAILED",
    "actor": "user_2b7Qk1",
    "reason": "TRIGGERED",
    "bundle_url": "https://runs.example.com/artifacts/0198d6a2-8f03-7d11-8a55-0c9e6b2f4d17",
    "queued": 0,
    "running": 0,
    "failed": 0,
    "cancelled": 0,
    "next_page_token": None,
    "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
    "limit": 20,
    "offset": 0,
    "waiting_for": None,
    "WaitingFor.id": "6f1c0e5b7d2a4f8e9b3c1d0a5e7f2b46",
    "WaitingFor.value": {"question": "Publish the bundle?"},
    "Workflow.name": "campaign-bundle",
    "input_schema": {"type": "object", "properties": {"audience": {"type": "string"}}},
    "output_schema": {"type": "object", "properties": {"headline": {"type": "string"}}},
    "WorkflowNode.id": "copywriting",
    "source": "brief",
    "target": "copywriting",
    "ResumeRunRequest.value": {"approved": True},
    "ResumeRunRequest.values": {"6f1c0e5b7d2a4f8e9b3c1d0a5e7f2b46": {"approved": True}},
}


def examples_of(declared: FieldDescriptor | EnumDescriptor) -> Json:
    """The keyword of the schema; nothing where there is no example."""
    message = declared.containing_type
    for name in (declared.name if message is None else f"{message.name}.{declared.name}", declared.name):
        if name in _EXAMPLES:
            return {"examples": [_EXAMPLES[name]]}
    return {}
