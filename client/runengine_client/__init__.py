"""The Python client of the run engine.

    async with RunEngineClient("127.0.0.1:50051", token) as client:
        run = await client.trigger_run("campaign-bundle", trigger_payload={"brand": "Acme"})
        run = await client.wait(run.id, timeout_seconds=60)

Methods return the messages of `runengine.v1`.
"""

from runengine_client import errors
from runengine_client.client import TERMINAL, Artifact, RunEngineClient, RunOutput, StepData
from runengine_client.errors import *  # noqa: F403 - one class for each reason
from runengine_client.structs import struct_to_dict, to_struct, to_value

__all__ = [
    "TERMINAL",
    "Artifact",
    "RunEngineClient",
    "RunOutput",
    "StepData",
    "struct_to_dict",
    "to_struct",
    "to_value",
]
__all__ += errors.__all__
