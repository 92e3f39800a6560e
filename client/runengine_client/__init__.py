"""The Python client of the run engine.

    async with RunEngineClient("127.0.0.1:50051", token) as client:
        run = await client.trigger_run("campaign-bundle", trigger_payload={"brand": "Acme"})
        run = await client.wait(run.id, timeout_seconds=60)

Answers are the messages of `runengine.v1`.
"""

from runengine_client.client import TERMINAL, Artifact, RunEngineClient
from runengine_client.errors import (
    ArtifactNotFound,
    CampaignNotFound,
    DeadlineExceeded,
    IdempotencyKeyReused,
    Internal,
    Interrupted,
    InvalidArgument,
    NoOrganisation,
    Overloaded,
    PayloadTooLarge,
    QuotaExceeded,
    RunActive,
    RunEngineError,
    RunNotFound,
    RunNotRetryable,
    RunTerminal,
    Unauthenticated,
    Unavailable,
    Violation,
)
from runengine_client.structs import struct_to_dict, to_struct

__all__ = [
    "TERMINAL",
    "Artifact",
    "ArtifactNotFound",
    "CampaignNotFound",
    "DeadlineExceeded",
    "IdempotencyKeyReused",
    "Internal",
    "Interrupted",
    "InvalidArgument",
    "NoOrganisation",
    "Overloaded",
    "PayloadTooLarge",
    "QuotaExceeded",
    "RunActive",
    "RunEngineClient",
    "RunEngineError",
    "RunNotFound",
    "RunNotRetryable",
    "RunTerminal",
    "Unauthenticated",
    "Unavailable",
    "Violation",
    "struct_to_dict",
    "to_struct",
]
