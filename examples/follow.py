"""Trigger a run for a new campaign, follow it step by step, and save its bundle.

$ export RUNENGINE_TOKEN=$(.venv/bin/runengine-server token --org org_demo)
$ .venv/bin/python examples/follow.py praise-order '{"item": "kettle"}'
"""

import asyncio
import json
import os
import sys
from pathlib import Path

from runengine.v1.run_pb2 import RunStatus, StepStatus
from runengine_client import RunEngineClient, RunEngineError


def word(name: str) -> str:
    """RUN_STATUS_QUEUED → queued."""
    return name.rpartition("_STATUS_")[2].lower()


async def main(workflow: str, payload: dict[str, object]) -> None:
    address = os.environ.get("RUNENGINE_GRPC_ADDRESS", "127.0.0.1:50051")
    async with RunEngineClient(address, os.environ["RUNENGINE_TOKEN"]) as client:
        campaign = await client.create_campaign()
        triggered = await client.trigger_run(workflow, trigger_payload=payload, campaign_id=campaign.id)
        print("run", triggered.id)

        async for message in client.watch_run(triggered.id):  # until the run has ended
            # How the steps stand at first, and then each change.
            for step in (message.step, message.step_transition):
                if step.id:
                    print(" ", step.step_id, word(StepStatus.Name(step.status)))
        run = await client.get_run(triggered.id)
        print(word(RunStatus.Name(run.status)), run.error.message)

        campaign = await client.get_campaign(campaign.id)
        if campaign.HasField("bundle_url"):
            bundle = await client.download_artifact(campaign.bundle_url.rpartition("/")[2])
            await asyncio.to_thread(Path(bundle.name).write_bytes, bundle.data)
            print("saved", bundle.name, len(bundle.data), "bytes")


if __name__ == "__main__":
    _, workflow, *payload = sys.argv
    try:
        asyncio.run(main(workflow, json.loads(payload[0]) if payload else {}))
    except RunEngineError as error:
        sys.exit(f"{error.reason}: {error}")
