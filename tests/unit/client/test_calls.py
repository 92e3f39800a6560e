"""The client against a real server in this process, which answers what each test tells it to."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import grpc
import grpc.aio
import pytest
from runengine.v1.artifact_service_pb2 import DownloadArtifactResponse
from runengine.v1.campaign_pb2 import Campaign
from runengine.v1.campaign_service_pb2 import CreateCampaignResponse, GetCampaignResponse
from runengine.v1.run_pb2 import Run, RunStatus, RunStep, WaitingFor
from runengine.v1.run_service_pb2 import (
    CancelRunResponse,
    GetRunOutputResponse,
    GetRunResponse,
    GetRunStepDataResponse,
    ListCampaignRunsResponse,
    ListRunStepsResponse,
    ResumeRunRequest,
    ResumeRunResponse,
    RetryRunResponse,
    TriggerRunResponse,
)
from runengine_client import RunEngineClient, RunOutput, StepData, errors, struct_to_dict, to_value
from runengine_client.channel import channel_options

from tests.support.answering_server import (
    CAMPAIGN_ID,
    NEVER,
    RUN,
    RUN_ID,
    Engine,
    failure,
    info,
    serving,
)
from tests.support.patience import SECONDS


def page(numbers: range, total: int, next_page_token: str | None = None) -> ListCampaignRunsResponse:
    runs = [Run(id=f"run-{n}") for n in numbers]
    return ListCampaignRunsResponse(runs=runs, total=total, next_page_token=next_page_token)


async def test_trigger_sends_payload_context_campaign_key_and_token(
    engine: Engine, client: RunEngineClient
) -> None:
    engine.answers = [TriggerRunResponse(run=RUN)]
    run = await client.trigger_run(
        "campaign-bundle",
        trigger_payload={"brand": "Acme", "slots": [1, 2.5, None, True]},
        context={"source": "test"},
        campaign_id=CAMPAIGN_ID,
        idempotency_key="once",
    )
    [request] = engine.requests
    assert run == RUN
    assert request.workflow_name == "campaign-bundle"
    assert struct_to_dict(request.trigger_payload) == {"brand": "Acme", "slots": [1, 2.5, None, True]}
    assert struct_to_dict(request.context) == {"source": "test", "campaignId": str(CAMPAIGN_ID)}
    assert engine.metadata["idempotency-key"] == "once"
    assert engine.metadata["authorization"] == "Bearer the-token"


async def test_trigger_without_payload_or_context_leaves_both_absent(
    engine: Engine, client: RunEngineClient
) -> None:
    engine.answers = [TriggerRunResponse(run=RUN)]
    await client.trigger_run("campaign-bundle")
    [request] = engine.requests
    assert not request.HasField("trigger_payload")
    assert not request.HasField("context")
    assert "idempotency-key" not in engine.metadata


async def test_each_call_about_one_run_sends_its_id(engine: Engine, client: RunEngineClient) -> None:
    step = RunStep(step_id="render")
    engine.answers = [
        GetRunResponse(run=RUN),
        ListRunStepsResponse(steps=[step]),
        GetRunOutputResponse(output='{"words":["ü",null]}'),
        RetryRunResponse(run=RUN),
        ResumeRunResponse(run=RUN),
        CancelRunResponse(run=RUN),
    ]
    assert await client.get_run(RUN_ID) == RUN
    assert await client.list_run_steps(str(RUN_ID)) == [step]
    assert await client.get_run_output(RUN_ID) == RunOutput({"words": ["ü", None]}, None, None)
    assert await client.retry_run(RUN_ID) == RUN
    assert await client.resume_run(RUN_ID, True) == RUN
    assert await client.cancel_run(RUN_ID) == RUN
    assert [request.run_id for request in engine.requests] == [str(RUN_ID)] * 6


async def test_the_data_of_a_step_is_asked_for_by_its_id_and_attempt(
    engine: Engine, client: RunEngineClient
) -> None:
    engine.answers = [
        GetRunStepDataResponse(attempt=2, input='{"words":["ü",null]}', update_note="It has not completed."),
        GetRunStepDataResponse(attempt=2, input_note="It was not kept.", update="null"),
    ]
    assert await client.get_step_data(RUN_ID, RUN_ID, attempt=2) == StepData(
        2, {"words": ["ü", None]}, None, None, "It has not completed."
    )
    assert await client.get_step_data(RUN_ID, str(RUN_ID)) == StepData(
        2, None, "It was not kept.", None, None
    )
    first, second = engine.requests
    assert (first.run_id, first.id, first.attempt) == (str(RUN_ID), str(RUN_ID), 2)
    assert not second.HasField("attempt")


@pytest.mark.parametrize("value", [None, False, 0, "", [], {}, {"a": [None, 1.5]}], ids=repr)
async def test_a_run_is_resumed_with_any_value_and_none_is_one(
    engine: Engine, client: RunEngineClient, value: Any
) -> None:
    engine.answers = [ResumeRunResponse(run=RUN)]
    await client.resume_run(RUN_ID, value=value, idempotency_key="once")
    await client.resume_run(RUN_ID, values={"a": value, "b": 1})
    one, several = engine.requests
    assert one == ResumeRunRequest(run_id=str(RUN_ID), value=to_value(value))
    assert one.value.WhichOneof("kind") is not None
    assert several == ResumeRunRequest(run_id=str(RUN_ID), values={"a": to_value(value), "b": to_value(1)})


async def test_a_run_is_resumed_with_a_value_or_with_values_that_are_json(
    engine: Engine, client: RunEngineClient
) -> None:
    neither_or_both: list[dict[str, Any]] = [{}, {"values": {}}, {"value": 1, "values": {"a": 1}}]
    for given in neither_or_both:
        with pytest.raises(ValueError, match="either a value or values by id"):
            await client.resume_run(RUN_ID, **given)
    with pytest.raises(ValueError, match=r"value\[0\] is nan"):
        await client.resume_run(RUN_ID, [float("nan")])
    with pytest.raises(ValueError, match=r"values\.a is a set"):
        await client.resume_run(RUN_ID, values={"a": {1}})
    assert engine.requests == []


async def test_campaigns_are_created_with_or_without_an_id_and_shown(
    engine: Engine, client: RunEngineClient
) -> None:
    campaign = Campaign(id=str(CAMPAIGN_ID))
    engine.answers = [
        CreateCampaignResponse(campaign=campaign),
        CreateCampaignResponse(campaign=campaign),
        GetCampaignResponse(campaign=campaign),
    ]
    assert await client.create_campaign() == campaign
    assert await client.create_campaign(CAMPAIGN_ID) == campaign
    assert await client.get_campaign(CAMPAIGN_ID) == campaign
    anonymous, named, shown = engine.requests
    assert not anonymous.HasField("id")
    assert named.id == shown.campaign_id == str(CAMPAIGN_ID)


@pytest.mark.parametrize(
    "status", ["failed", RunStatus.RUN_STATUS_FAILED, ["failed"], [RunStatus.RUN_STATUS_FAILED]]
)
async def test_a_status_filter_is_a_word_a_value_or_several(
    engine: Engine, client: RunEngineClient, status: Any
) -> None:
    engine.answers = [ListCampaignRunsResponse(total=3)]
    assert (await client.list_campaign_runs(CAMPAIGN_ID, status=status, limit=1, offset=0)).total == 3
    [request] = engine.requests
    assert list(request.status) == [RunStatus.RUN_STATUS_FAILED]
    assert (request.limit, request.offset) == (1, 0)
    assert request.HasField("offset")


async def test_limit_and_offset_not_given_are_absent(engine: Engine, client: RunEngineClient) -> None:
    engine.answers = [ListCampaignRunsResponse()]
    await client.list_campaign_runs(CAMPAIGN_ID)
    [request] = engine.requests
    assert not request.status
    assert not request.HasField("limit")
    assert not request.HasField("offset")


@pytest.mark.parametrize("word", ["done", "unspecified", "FAILED", ""])
async def test_an_unknown_status_word_is_refused_with_the_words_there_are(
    client: RunEngineClient, word: str
) -> None:
    with pytest.raises(ValueError, match="queued, running, completed, failed, cancelled"):
        await client.list_campaign_runs(CAMPAIGN_ID, status=word)


async def test_iterating_follows_the_tokens_from_page_to_page(
    engine: Engine, client: RunEngineClient
) -> None:
    engine.answers = [page(range(2), 5, "a"), page(range(2, 4), 5, "b"), page(range(4, 5), 5)]
    runs = [run.id async for run in client.iterate_campaign_runs(CAMPAIGN_ID, status="failed", page_size=2)]
    assert runs == ["run-0", "run-1", "run-2", "run-3", "run-4"]
    asked = [(request.limit, request.page_token, request.HasField("offset")) for request in engine.requests]
    assert asked == [(2, "", False), (2, "a", False), (2, "b", False)]


async def test_an_artifact_comes_in_parts_and_is_returned_whole(
    engine: Engine, client: RunEngineClient
) -> None:
    header = DownloadArtifactResponse.Header(name="bundle.zip", media_type="application/zip", size=5)
    engine.answers = [
        DownloadArtifactResponse(header=header),
        DownloadArtifactResponse(data=b"abc"),
        DownloadArtifactResponse(data=b"de"),
        None,
    ]
    artifact = await client.download_artifact(RUN_ID)
    assert (artifact.name, artifact.media_type, artifact.data) == ("bundle.zip", "application/zip", b"abcde")
    assert engine.metadata["authorization"] == "Bearer the-token"


async def test_an_artifact_that_falls_short_is_an_error(engine: Engine, client: RunEngineClient) -> None:
    engine.answers = [DownloadArtifactResponse(header=DownloadArtifactResponse.Header(size=5)), None]
    with pytest.raises(errors.Internal, match="0 of the artifact's 5 bytes"):
        await client.download_artifact(RUN_ID)


async def test_a_download_that_stalls_is_given_up(engine: Engine, address: str) -> None:
    engine.answers = [DownloadArtifactResponse(header=DownloadArtifactResponse.Header(size=5)), NEVER, None]
    async with RunEngineClient(address, "t", timeout_seconds=0.05) as client:
        with pytest.raises(errors.DeadlineExceeded, match=r"nothing of the artifact for 0\.05 s"):
            await client.download_artifact(RUN_ID)


async def test_a_download_refused_is_the_typed_error(engine: Engine, client: RunEngineClient) -> None:
    engine.answers = [failure(grpc.StatusCode.NOT_FOUND, "No such artifact.", info("ARTIFACT_NOT_FOUND"))]
    with pytest.raises(errors.ArtifactNotFound, match=r"^No such artifact\.$"):
        await client.download_artifact(RUN_ID)


@pytest.mark.parametrize("end", ["COMPLETED", "FAILED", "CANCELLED"])
async def test_waiting_returns_the_run_once_it_has_ended(
    engine: Engine, client: RunEngineClient, end: str
) -> None:
    statuses = ["QUEUED", "RUNNING", end]
    engine.answers = [GetRunResponse(run=Run(status=RunStatus.Value(f"RUN_STATUS_{s}"))) for s in statuses]
    run = await client.wait(RUN_ID, poll=(0, 0))
    assert run.status == RunStatus.Value(f"RUN_STATUS_{end}")
    assert len(engine.requests) == 3


async def test_waiting_goes_on_while_the_run_waits_for_somebody(
    engine: Engine, client: RunEngineClient
) -> None:
    running = RunStatus.RUN_STATUS_RUNNING
    asked = Run(status=running, waiting_for=[WaitingFor(id="a", step_id="approve", value='"May I?"')])
    ended = Run(status=RunStatus.RUN_STATUS_COMPLETED)
    engine.answers = [GetRunResponse(run=run) for run in (asked, asked, Run(status=running), ended)]
    seen = [len(run.waiting_for) async for run in client.follow_run(RUN_ID, poll=(0, 0))]
    assert seen == [1, 0, 0]
    engine.answers = [GetRunResponse(run=run) for run in (asked, ended)]
    assert await client.wait(RUN_ID, poll=(0, 0)) == ended


async def test_waiting_for_the_output_returns_it_once_the_run_has_ended(
    engine: Engine, client: RunEngineClient
) -> None:
    statuses = ["RUNNING", "COMPLETED"]
    engine.answers = [GetRunResponse(run=Run(status=RunStatus.Value(f"RUN_STATUS_{s}"))) for s in statuses]
    engine.answers.append(GetRunOutputResponse(output='{"count": 3}'))
    assert await client.wait_for_output(RUN_ID, poll=(0, 0)) == RunOutput({"count": 3}, None, None)
    refusal = failure(
        grpc.StatusCode.FAILED_PRECONDITION, "The run is failed.", info("RUN_NOT_COMPLETED", status="failed")
    )
    engine.answers = [GetRunResponse(run=Run(status=RunStatus.RUN_STATUS_FAILED)), refusal]
    with pytest.raises(errors.RunNotCompleted) as refused:
        await client.wait_for_output(RUN_ID)
    assert refused.value.metadata == {"status": "failed"}


async def test_waiting_too_long_is_a_timeout_that_names_the_run(
    engine: Engine, client: RunEngineClient
) -> None:
    engine.answers = [GetRunResponse(run=RUN)]
    with pytest.raises(TimeoutError, match=f"Run {RUN_ID} has not ended within 0.05 s"):
        await client.wait(RUN_ID, timeout_seconds=0.05)


async def test_calls_take_turns_on_all_servers_of_an_address(engine: Engine, address: str) -> None:
    another = Engine()
    engine.answers = another.answers = [GetRunResponse(run=RUN)]
    async with serving(another) as other, RunEngineClient(f"ipv4:{address},{other}", "-") as client:
        async with asyncio.timeout(SECONDS):
            while not engine.requests or not another.requests:
                await client.get_run(RUN_ID)
        engine.requests.clear()
        another.requests.clear()
        for _ in range(4):
            await client.get_run(RUN_ID)
    assert (len(engine.requests), len(another.requests)) == (2, 2)


@pytest.mark.parametrize(
    "address", ["10.0.0.1:50051", "localhost:50051", "[::1]:50051", "ipv4:10.0.0.1:50051", "unix:/run/engine"]
)
def test_calls_of_one_server_take_no_turns(address: str) -> None:
    assert "grpc.lb_policy_name" not in dict(channel_options(address))


@pytest.mark.parametrize(
    "address", ["engine:50051", "ipv4:10.0.0.1:50051,10.0.0.2:50051", "dns:///engine:50051"]
)
def test_calls_of_a_name_take_turns(address: str) -> None:
    assert dict(channel_options(address))["grpc.lb_policy_name"] == "round_robin"


async def test_a_token_may_be_a_function_asked_before_each_call(engine: Engine, address: str) -> None:
    engine.answers = [GetRunResponse(run=RUN)]
    tokens = iter(["first", "second"])
    async with RunEngineClient(address, lambda: next(tokens)) as client:
        for token in ("first", "second"):
            await client.get_run(RUN_ID)
            assert engine.metadata["authorization"] == f"Bearer {token}"


async def test_a_token_may_be_a_coroutine_function(engine: Engine, address: str) -> None:
    engine.answers = [GetRunResponse(run=RUN)]

    async def token() -> str:
        return "fetched"

    async with RunEngineClient(address, token) as client:
        await client.get_run(RUN_ID)
    assert engine.metadata["authorization"] == "Bearer fetched"


@pytest.mark.parametrize("token", ["", "two\nlines", "é"])
async def test_a_token_that_no_header_can_carry_is_refused(address: str, token: str) -> None:
    async with RunEngineClient(address, token) as client:
        with pytest.raises(ValueError, match="The token must be printable ASCII"):
            await client.get_run(RUN_ID)


async def test_a_response_larger_than_four_mebibytes_arrives(engine: Engine, client: RunEngineClient) -> None:
    engine.answers = [GetRunResponse(run=Run(workflow_name="x" * 5 * 2**20))]
    assert len((await client.get_run(RUN_ID)).workflow_name) == 5 * 2**20


def test_a_client_outside_a_loop_is_refused_at_once() -> None:
    with pytest.raises(RuntimeError, match="no running event loop"):
        RunEngineClient("127.0.0.1:1", "t")


def test_importing_the_client_imports_neither_typer_nor_rich() -> None:
    code = "import sys, runengine_client; sys.exit(any(m in sys.modules for m in ('typer', 'rich')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
