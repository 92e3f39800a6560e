"""Clients that others wrote read every answer of the gRPC server."""

from __future__ import annotations

import asyncio
import base64
import socket
import uuid
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.clients.callers import Asked, Caller, Json, Told
from tests.clients.conftest import CLIENTS
from tests.faults.wire import Wire
from tests.support.graphs import LARGE
from tests.support.patience import SECONDS
from tests.support.stack import Stack

THAT_CAN_STOP = [client for client in CLIENTS if client != "buf curl"]
ABSENT = "0190a000-0000-7000-8000-000000000001"
PAYLOAD: Json = {
    "text": "Grüße, 世界 👋", "": "", "true": True, "false": False, "nothing": None, "zero": 0, "half": 0.5,
    "negative": -1, "large": 2**53, "list": [1, "two", [], {}, None], "object": {"deep": {"er": [{}]}},
}  # fmt: skip


class Engine:
    """The server, as one client calls it for one tenant."""

    def __init__(self, caller: Caller, address: str, token: str) -> None:
        self._caller = caller
        self._address = address
        self._metadata = {"authorization": f"Bearer {token}"}

    async def call(
        self,
        method: str,
        request: Json,
        metadata: dict[str, str] | None = None,
        timeout_ms: int | None = None,
        cancel_after: int | None = None,
    ) -> Told:
        name = {"CreateCampaign": "Campaign", "GetCampaign": "Campaign", "DownloadArtifact": "Artifact"}
        asked: Asked = {
            "address": self._address,
            "method": f"runengine.v1.{name.get(method, 'Run')}Service/{method}",
            "request": request,
            "metadata": {**self._metadata, **(metadata or {})},
            "timeoutMs": timeout_ms,
            "cancelAfter": cancel_after,
        }
        return await self._caller.call(asked)

    async def campaign(self) -> str:
        created = (await self.call("CreateCampaign", {})).only["campaign"]
        return str(created["id"])

    async def run(self, workflow: str, campaign_id: str, **fields: Any) -> Json:
        """Of a run that has been triggered."""
        request = {"workflowName": workflow, "context": {"campaignId": campaign_id}, **fields}
        return dict((await self.call("TriggerRun", request)).only["run"])

    async def ended(self, run_id: str) -> Json:
        async with asyncio.timeout(SECONDS):
            while True:
                run: Json = (await self.call("GetRun", {"runId": run_id})).only["run"]
                if run["status"] not in ("RUN_STATUS_QUEUED", "RUN_STATUS_RUNNING"):
                    return run


@pytest.fixture
def engine(caller: Caller, stack: Stack, token: str) -> Engine:
    return Engine(caller, stack.grpc_address, token)


@pytest.fixture
def silent_address() -> Iterator[str]:
    """Where the kernel takes connections, and nobody ever says anything."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        host, port = listening.getsockname()
        yield f"{host}:{port}"


def moment(text: str) -> datetime:
    at = datetime.fromisoformat(text)
    assert abs(datetime.now(UTC) - at) < timedelta(minutes=5)
    return at


async def test_a_run_is_read_from_its_trigger_to_its_bundle(engine: Engine) -> None:
    campaign_id = await engine.campaign()
    again = (await engine.call("CreateCampaign", {"id": campaign_id})).only["campaign"]
    assert (again["id"], again["status"]) == (campaign_id, "CAMPAIGN_STATUS_DRAFT")

    triggered = await engine.run("large-bundle", campaign_id, triggerPayload=PAYLOAD, priority=-7)
    assert (triggered["status"], triggered["workflowName"]) == ("RUN_STATUS_QUEUED", "large-bundle")
    assert triggered["triggerPayload"] == PAYLOAD
    assert triggered["context"] == {"campaignId": campaign_id}
    assert (triggered["attempt"], triggered["priority"]) == (1, -7)
    assert moment(triggered["createdAt"]) == moment(triggered["updatedAt"])

    run = await engine.ended(triggered["id"])
    assert run["status"] == "RUN_STATUS_COMPLETED"
    took = moment(run["completedAt"]) - moment(run["startedAt"])
    assert abs(int(run["durationMs"]) - took / timedelta(milliseconds=1)) < 1.5
    assert (run["triggerPayload"], run["attempt"], run["priority"]) == (PAYLOAD, 1, -7)

    (step,) = (await engine.call("ListRunSteps", {"runId": run["id"]})).only["steps"]
    assert (step["stepId"], step["skillId"], step["status"], step["attempt"]) == (
        "save_large", "save_large", "STEP_STATUS_COMPLETED", 1,
    )  # fmt: skip
    events = (await engine.call("ListRunEvents", {"runId": run["id"]})).only["events"]
    assert [each["reason"] for each in events] == ["TRIGGERED", "CLAIMED", "COMPLETED"]
    assert [each.get("fromStatus") for each in events] == [None, "RUN_STATUS_QUEUED", "RUN_STATUS_RUNNING"]
    assert [moment(each["at"]) for each in events] == sorted(moment(each["at"]) for each in events)

    live = (await engine.call("GetCampaign", {"campaignId": campaign_id})).only["campaign"]
    assert (live["status"], live["latestRunId"]) == ("CAMPAIGN_STATUS_LIVE", run["id"])
    (artifact_id,) = step["outputArtifactIds"]
    assert live["bundleUrl"].endswith(f"/artifacts/{artifact_id}")

    download = await engine.call("DownloadArtifact", {"artifactId": artifact_id})
    assert download.error is None
    header, *chunks = download.messages
    assert header["header"] == {
        "name": "large.bin", "mediaType": "application/octet-stream", "size": str(len(LARGE)),
    }  # fmt: skip
    assert b"".join(base64.b64decode(chunk["data"]) for chunk in chunks) == LARGE
    assert len(chunks) == -(-len(LARGE) // 65_536)


async def test_a_run_that_fails_is_read_at_each_of_its_attempts(engine: Engine) -> None:
    campaign_id = await engine.campaign()
    failed = await engine.ended((await engine.run("rejecting", campaign_id))["id"])
    assert failed["status"] == "RUN_STATUS_FAILED"
    assert failed["error"] == {
        "code": "STEP_FAILED", "message": "ValueError: The brief is empty.", "stepId": "reject", "attempt": 1,
    }  # fmt: skip
    retried = (await engine.call("RetryRun", {"runId": failed["id"]})).only["run"]
    assert (retried["id"], retried["attempt"]) == (failed["id"], 2)
    assert retried.get("error") is None
    again = await engine.ended(failed["id"])
    assert (again["attempt"], again["error"]["attempt"]) == (2, 2)
    for attempt in (1, 2):
        request = {"runId": failed["id"], "attempt": attempt}
        (step,) = (await engine.call("ListRunSteps", request)).only["steps"]
        assert (step["attempt"], step["status"]) == (attempt, "STEP_STATUS_FAILED")
        assert step["error"]["message"] == "ValueError: The brief is empty."


async def test_the_list_is_read_page_by_page(engine: Engine) -> None:
    campaign_id = await engine.campaign()
    ids = [(await engine.run("unserved", campaign_id))["id"] for _ in range(3)]
    await engine.call("CancelRun", {"runId": ids[0]})
    request: Json = {"campaignId": campaign_id, "limit": 2, "pageToken": ""}
    first = (await engine.call("ListCampaignRuns", request)).only
    assert [run["id"] for run in first["runs"]] == [ids[2], ids[1]]
    assert (first["total"], first["limit"], int(first.get("offset", 0))) == ("3", 2, 0)
    counts = {word: count for word, count in first["statusCounts"].items() if count != "0"}
    assert counts == {"queued": "2", "cancelled": "1"}
    second = (await engine.call("ListCampaignRuns", {**request, "pageToken": first["nextPageToken"]})).only
    assert [run["id"] for run in second["runs"]] == [ids[0]]
    assert second.get("nextPageToken") is None
    request = {"campaignId": campaign_id, "status": ["RUN_STATUS_QUEUED"], "offset": 1}
    filtered = (await engine.call("ListCampaignRuns", request)).only
    assert ([run["id"] for run in filtered["runs"]], filtered["total"]) == ([ids[1]], "2")
    empty = (await engine.call("ListCampaignRuns", {"campaignId": ABSENT})).only
    assert (empty.get("runs", []), int(empty.get("total", 0))) == ([], 0)


async def test_an_idempotency_key_is_replayed_and_says_so(engine: Engine) -> None:
    key = {"idempotency-key": str(uuid.uuid4())}
    request = {"workflowName": "unserved", "triggerPayload": PAYLOAD}
    first = await engine.call("TriggerRun", request, metadata=key)
    second = await engine.call("TriggerRun", request, metadata=key)
    assert first.only == second.only
    assert first.trailer.get("idempotency-replayed") is None
    assert second.trailer["idempotency-replayed"] == "true"
    other = await engine.call("TriggerRun", {**request, "triggerPayload": {}}, metadata=key)
    assert other.error is not None
    assert other.error["code"] == "ALREADY_EXISTS"
    assert other.detail("ErrorInfo")["reason"] == "IDEMPOTENCY_KEY_REUSED"

    run_id = {"runId": first.only["run"]["id"]}
    for method in ("CancelRun", "RetryRun"):
        key = {"idempotency-key": str(uuid.uuid4())}
        first, second = [await engine.call(method, run_id, metadata=key) for _ in range(2)]
        assert first.only == second.only
        assert second.trailer["idempotency-replayed"] == "true"


@pytest.mark.parametrize(
    ("method", "request_", "code", "reason"),
    [
        ("GetRun", {"runId": ABSENT}, "NOT_FOUND", "RUN_NOT_FOUND"),
        ("ListRunSteps", {"runId": ABSENT}, "NOT_FOUND", "RUN_NOT_FOUND"),
        ("ListRunEvents", {"runId": ABSENT}, "NOT_FOUND", "RUN_NOT_FOUND"),
        ("GetRunOutput", {"runId": ABSENT}, "NOT_FOUND", "RUN_NOT_FOUND"),
        ("GetRunStepData", {"runId": ABSENT, "id": ABSENT}, "NOT_FOUND", "RUN_NOT_FOUND"),
        ("RetryRun", {"runId": ABSENT}, "NOT_FOUND", "RUN_NOT_FOUND"),
        ("ResumeRun", {"runId": ABSENT, "value": True}, "NOT_FOUND", "RUN_NOT_FOUND"),
        ("CancelRun", {"runId": ABSENT}, "NOT_FOUND", "RUN_NOT_FOUND"),
        ("GetCampaign", {"campaignId": ABSENT}, "NOT_FOUND", "CAMPAIGN_NOT_FOUND"),
        ("DownloadArtifact", {"artifactId": ABSENT}, "NOT_FOUND", "ARTIFACT_NOT_FOUND"),
    ],
)
async def test_an_absent_id_is_not_found_with_a_reason(
    engine: Engine, method: str, request_: Json, code: str, reason: str
) -> None:
    told = await engine.call(method, request_)
    assert told.error is not None
    assert told.error["code"] == code
    assert (told.messages, told.detail("ErrorInfo")["reason"]) == ([], reason)
    assert told.detail("ErrorInfo")["domain"] == "runengine.v1"


async def test_a_bad_request_names_its_fields(engine: Engine) -> None:
    request = {"campaignId": "x", "limit": 0, "offset": -1}
    told = await engine.call("ListCampaignRuns", request)
    assert told.error is not None
    assert told.error["code"] == "INVALID_ARGUMENT"
    assert told.detail("ErrorInfo")["reason"] == "INVALID_ARGUMENT"
    violations = told.detail("BadRequest")["fieldViolations"]
    assert [each["field"] for each in violations] == ["campaign_id", "limit", "offset"]
    assert all(each["description"] for each in violations)


async def test_a_wrong_state_says_what_is_allowed(engine: Engine) -> None:
    run = await engine.run("unserved", await engine.campaign())
    told = await engine.call("RetryRun", {"runId": run["id"]})
    assert told.error is not None
    assert told.error["code"] == "FAILED_PRECONDITION"
    info = told.detail("ErrorInfo")
    assert (info["reason"], info["metadata"]) == (
        "RUN_ACTIVE", {"status": "queued", "attempt": "1", "allowed": "cancel"},
    )  # fmt: skip


@pytest.mark.parametrize("value", [None, True, 0, "yes", [], PAYLOAD], ids=str)
async def test_a_resume_is_sent_with_any_value(engine: Engine, value: Any) -> None:
    """One that the server has not understood would be a malformed request."""
    run = await engine.run("unserved", await engine.campaign())
    for given in ({"value": value}, {"values": {"a": value, "b": None}}):
        told = await engine.call("ResumeRun", {"runId": run["id"], **given})
        assert told.error is not None
        assert told.error["code"] == "FAILED_PRECONDITION"
        assert told.detail("ErrorInfo")["reason"] == "RUN_NOT_WAITING"
    told = await engine.call("ResumeRun", {"runId": run["id"]})
    assert [each["field"] for each in told.detail("BadRequest")["fieldViolations"]] == ["value"]


async def test_a_bad_token_is_refused_with_a_reason(caller: Caller, stack: Stack) -> None:
    told = await Engine(caller, stack.grpc_address, "x.y.z").call("GetRun", {"runId": ABSENT})
    assert told.error is not None
    assert told.error["code"] == "UNAUTHENTICATED"
    assert told.detail("ErrorInfo")["reason"] == "UNAUTHENTICATED"


@pytest.fixture(scope="session")
async def strict(database_url: str, state_dir: Path, stack: Stack) -> AsyncIterator[Stack]:
    """A server with which a tenant may have one run queued."""
    strict = Stack(database_url, state_dir)
    await strict.start("serve", TENANT_QUEUED_LIMIT="1")
    yield strict
    await strict.stop()


async def test_a_full_queue_says_when_to_come_back(caller: Caller, strict: Stack, organisation: str) -> None:
    engine = Engine(caller, strict.grpc_address, strict.token(organisation))
    campaign_id = await engine.campaign()
    await engine.run("unserved", campaign_id)
    told = await engine.call("TriggerRun", {"workflowName": "unserved"})
    assert told.error is not None
    assert told.error["code"] == "RESOURCE_EXHAUSTED"
    assert told.detail("ErrorInfo")["reason"] == "QUOTA_EXCEEDED"
    delay = told.detail("RetryInfo")["retryDelay"]
    seconds = delay["seconds"] if isinstance(delay, dict) else delay.removesuffix("s")
    assert int(seconds) >= 1


@pytest.mark.parametrize("caller", THAT_CAN_STOP, indirect=True)
async def test_a_deadline_ends_a_call(caller: Caller, stack: Stack, token: str, silent_address: str) -> None:
    told = await Engine(caller, silent_address, token).call("GetRun", {"runId": ABSENT}, timeout_ms=200)
    assert told.error is not None
    assert told.error["code"] == "DEADLINE_EXCEEDED"
    in_time = await Engine(caller, stack.grpc_address, token).call(
        "GetRun", {"runId": ABSENT}, timeout_ms=SECONDS * 1000
    )
    assert in_time.detail("ErrorInfo")["reason"] == "RUN_NOT_FOUND"


@pytest.mark.parametrize("caller", THAT_CAN_STOP, indirect=True)
async def test_calls_and_downloads_are_cancelled(
    caller: Caller, engine: Engine, token: str, silent_address: str
) -> None:
    silent = Engine(caller, silent_address, token)
    cancelled = await silent.call("GetRun", {"runId": ABSENT}, cancel_after=0)
    assert cancelled.error is not None
    assert cancelled.error["code"] == "CANCELLED"
    run = await engine.ended((await engine.run("large-bundle", await engine.campaign()))["id"])
    (step,) = (await engine.call("ListRunSteps", {"runId": run["id"]})).only["steps"]
    request = {"artifactId": step["outputArtifactIds"][0]}
    # More often than a tenant may have downloads under way: each has ended.
    for _ in range(20):
        told = await engine.call("DownloadArtifact", request, cancel_after=1)
        assert told.error is not None
        assert (told.error["code"], len(told.messages)) == ("CANCELLED", 1)
    assert (await engine.call("DownloadArtifact", request)).error is None


@pytest.mark.parametrize("caller", ["grpc-js", "connect"], indirect=True)
async def test_a_connection_that_a_network_forgets_is_replaced(
    caller: Caller, stack: Stack, token: str
) -> None:
    """With the settings that docs/clients.md names, which the processes of the clients have."""
    async with Wire(stack.grpc_address) as wire:
        engine = Engine(caller, wire.address, token)
        campaign_id = await engine.campaign()
        wire.forget()
        async with asyncio.timeout(SECONDS):
            await wire.until(lambda wire: wire.given_up == 1)
        found = (await engine.call("GetCampaign", {"campaignId": campaign_id})).only["campaign"]
        assert (found["id"], wire.connections) == (campaign_id, 2)
