"""What a run and its campaign go through, the same through gRPC, REST and the client."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import pytest

from tests.e2e.apis import Api, Json, Refused
from tests.support.gates import Gates
from tests.support.patience import SECONDS

BRIEF = {
    "product": {"name": "Solar Kettle", "description": "Boils a litre of water with sunlight."},
    "audience": "campers",
    "channels": ["email", "instagram"],
    "tone": "friendly",
    "offer": "20 % off until Sunday",
    "locale": "en",
}


async def ended(api: Api, run_id: str) -> Json:
    async with asyncio.timeout(SECONDS):
        while (run := await api.get(run_id))["status"] in ("queued", "running"):
            pass
    return run


async def campaign_of(api: Api) -> tuple[str, Json]:
    campaign = await api.create_campaign()
    return campaign["id"], {"campaignId": campaign["id"]}


async def test_a_brief_becomes_a_bundle_and_the_campaign_goes_live(api: Api) -> None:
    campaign_id, context = await campaign_of(api)
    draft = await api.get_campaign(campaign_id)
    assert (draft["status"], draft["bundleUrl"], draft["latestRunId"]) == ("draft", None, None)

    triggered = await api.trigger("campaign-bundle", BRIEF, context)
    assert (triggered["status"], triggered["triggerPayload"], triggered["context"]) == (
        "queued",
        BRIEF,
        context,
    )
    run = await ended(api, triggered["id"])
    assert (run["status"], run["error"]) == ("completed", None)

    steps = await api.steps(run["id"])
    assert {step["status"] for step in steps} == {"completed"}
    assert len(steps) >= 5
    live = await api.get_campaign(campaign_id)
    assert (live["status"], live["latestRunId"]) == ("live", run["id"])
    bundle = steps[-1]["outputArtifactIds"][-1]
    assert live["bundleUrl"].endswith(f"/artifacts/{bundle}")
    page = await api.list(campaign_id)
    assert (page["runs"], page["total"], page["limit"], page["offset"]) == ([run], 1, 20, 0)
    assert page["nextPageToken"] is None
    assert page["statusCounts"] == {"queued": 0, "running": 0, "completed": 1, "failed": 0, "cancelled": 0}


async def test_a_brief_that_lacks_something_fails_its_step_and_the_campaign(api: Api) -> None:
    campaign_id, context = await campaign_of(api)
    brief = {key: value for key, value in BRIEF.items() if key != "offer"}
    run = await ended(api, (await api.trigger("campaign-bundle", brief, context))["id"])
    assert run["status"] == "failed"
    assert (run["error"]["stepId"], run["error"]["retryable"]) == ("copywriting", False)
    assert "`offer`" in run["error"]["message"]
    campaign = await api.get_campaign(campaign_id)
    assert (campaign["status"], campaign["bundleUrl"], campaign["latestRunId"]) == ("failed", None, run["id"])


async def test_a_failed_run_keeps_the_last_good_bundle(api: Api) -> None:
    campaign_id, context = await campaign_of(api)
    await ended(api, (await api.trigger("bundling", None, context))["id"])
    live = await api.get_campaign(campaign_id)
    failed = await ended(api, (await api.trigger("rejecting", None, context))["id"])
    campaign = await api.get_campaign(campaign_id)
    assert (campaign["status"], campaign["latestRunId"]) == ("failed", failed["id"])
    assert campaign["bundleUrl"] == live["bundleUrl"] is not None
    assert campaign["updatedAt"] > live["updatedAt"]


async def test_a_slow_old_run_does_not_overwrite_a_newer_one(api: Api, gates: Gates) -> None:
    campaign_id, context = await campaign_of(api)
    old = await api.trigger("gated", {"gates": gates.path}, context)
    gate = await gates.next()
    new = await ended(api, (await api.trigger("bundling", None, context))["id"])
    live = await api.get_campaign(campaign_id)
    gate.open("fail")
    assert (await ended(api, old["id"]))["status"] == "failed"
    assert await api.get_campaign(campaign_id) == live
    assert live["latestRunId"] == new["id"]


async def test_a_failed_run_is_retried_under_its_id(api: Api, gates: Gates) -> None:
    campaign_id, context = await campaign_of(api)
    run = await api.trigger("gated", {"gates": gates.path}, context)
    (await gates.next()).open("fail")
    failed = await ended(api, run["id"])
    assert failed["error"] == {
        "code": "STEP_FAILED", "message": "RuntimeError: The gate said so.", "stepId": "held", "attempt": 1,
        "retryable": False,
    }  # fmt: skip
    queued = await api.retry(run["id"])
    assert (queued["id"], queued["status"], queued["attempt"], queued["error"]) == (
        run["id"],
        "queued",
        2,
        None,
    )
    assert queued["updatedAt"] > failed["updatedAt"]
    (await gates.next()).open()
    done = await ended(api, run["id"])
    assert (done["status"], done["attempt"]) == ("completed", 2)
    assert (await api.get_campaign(campaign_id))["status"] == "live"


async def test_a_running_run_is_cancelled_at_once_and_its_campaign_left_alone(api: Api, gates: Gates) -> None:
    campaign_id, context = await campaign_of(api)
    run = await api.trigger("gated", {"gates": gates.path}, context)
    gate = await gates.next()
    cancelled = await api.cancel(run["id"])
    assert (cancelled["status"], cancelled["error"]) == ("cancelled", None)
    assert cancelled["durationMs"] is not None
    steps = await api.steps(run["id"])
    assert [(step["stepId"], step["status"]) for step in steps] == [
        ("first", "completed"),
        ("held", "failed"),
    ]
    assert steps[1]["error"]["code"] == "RUN_CANCELLED"
    await gate.left.wait()
    assert await api.cancel(run["id"]) == cancelled
    assert await api.get(run["id"]) == cancelled
    assert (await api.get_campaign(campaign_id))["status"] == "draft"

    retried = await api.retry(run["id"])
    assert (retried["status"], retried["attempt"], retried["startedAt"]) == ("queued", 2, None)
    (await gates.next()).open()
    assert (await ended(api, run["id"]))["status"] == "completed"


async def test_a_step_that_waits_for_its_next_attempt_is_skipped_by_cancel(api: Api, gates: Gates) -> None:
    run = await api.trigger("patient", {"gates": gates.path}, None)
    (await gates.next()).open("fail")
    async with asyncio.timeout(SECONDS):
        while (step := (await api.steps(run["id"]))[0])["status"] != "pending":
            pass
    assert (step["attempt"], step["durationMs"]) == (2, None)
    await api.cancel(run["id"])
    step = (await api.steps(run["id"]))[0]
    assert (step["status"], step["attempt"], step["error"]) == ("skipped", 2, None)


@pytest.mark.parametrize(
    ("workflow", "word", "method", "reason", "allowed"),
    [
        ("gated", None, "retry", "RUN_ACTIVE", "cancel"),
        ("gated", "go", "retry", "RUN_NOT_RETRYABLE", ""),
        ("gated", "go", "cancel", "RUN_TERMINAL", ""),
        ("gated", "fail", "cancel", "RUN_TERMINAL", "retry"),
    ],
)
async def test_a_call_that_the_status_forbids_is_refused_with_those_that_it_allows(
    api: Api, gates: Gates, workflow: str, word: str | None, method: str, reason: str, allowed: str
) -> None:
    run = await api.trigger(workflow, {"gates": gates.path}, None)
    gate = await gates.next()
    if word is not None:
        gate.open(word)
        run = await ended(api, run["id"])
    else:
        run = await api.get(run["id"])
    with pytest.raises(Refused) as refused:
        await getattr(api, method)(run["id"])
    assert refused.value.reason == reason
    assert refused.value.metadata == {"status": run["status"], "attempt": "1", "allowed": allowed}
    assert await api.get(run["id"]) == run
    if word is None:
        await api.cancel(run["id"])


async def test_the_list_is_filtered_paged_and_counted(api: Api) -> None:
    campaign_id, context = await campaign_of(api)
    ids = [
        (await api.trigger("bundling" if number % 2 else "rejecting", None, context))["id"]
        for number in range(5)
    ]
    runs = [await ended(api, run_id) for run_id in reversed(ids)]

    async def listed(**query: Any) -> tuple[list[Json], int, int, int]:
        page = await api.list(campaign_id, **query)
        return page["runs"], page["total"], page["limit"], page["offset"]

    assert await listed() == (runs, 5, 20, 0)
    assert await listed(limit=2) == (runs[:2], 5, 2, 0)
    assert await listed(limit=2, offset=4) == (runs[4:], 5, 2, 4)
    assert await listed(offset=9) == ([], 5, 20, 9)
    failed = [run for run in runs if run["status"] == "failed"]
    assert await listed(status="failed", limit=1) == (failed[:1], 3, 1, 0)
    assert await listed(status="queued") == ([], 0, 20, 0)
    page = await api.list(str(uuid4()))
    assert (page["runs"], page["total"]) == ([], 0)


async def test_a_campaign_id_in_upper_case_is_the_same_campaign(api: Api) -> None:
    campaign_id, _ = await campaign_of(api)
    run = await api.trigger("bundling", None, {"campaignId": campaign_id.upper(), "note": "x"})
    assert run["context"] == {"campaignId": campaign_id, "note": "x"}
    await ended(api, run["id"])
    assert [each["id"] for each in (await api.list(campaign_id.upper()))["runs"]] == [run["id"]]
    assert (await api.get(run["id"].upper()))["id"] == run["id"]


@pytest.mark.parametrize("context", [None, {}, {"team": "blue"}, {"campaignId": str(uuid4())}])
async def test_a_run_without_a_campaign_runs_all_the_same(api: Api, context: Json | None) -> None:
    run = await ended(api, (await api.trigger("bundling", None, context))["id"])
    assert (run["status"], run["context"]) == ("completed", context)


@pytest.mark.parametrize(
    ("workflow", "context"),
    [
        ("no-such-workflow", None),
        ("", None),
        ("bundling", {"campaignId": "c1"}),
        ("bundling", {"campaignId": None}),
    ],
)
async def test_a_malformed_trigger_is_refused(api: Api, workflow: str, context: Json | None) -> None:
    with pytest.raises(Refused) as refused:
        await api.trigger(workflow, None, context)
    assert refused.value.reason == "INVALID_ARGUMENT"


@pytest.mark.parametrize("query", [{"limit": 0}, {"limit": 101}, {"limit": -1}, {"offset": -1}])
async def test_paging_out_of_bounds_is_refused_and_not_clamped(api: Api, query: dict[str, int]) -> None:
    with pytest.raises(Refused) as refused:
        await api.list(str(uuid4()), **query)
    assert refused.value.reason == "INVALID_ARGUMENT"


@pytest.mark.parametrize("method", ["get", "steps", "retry", "cancel", "get_campaign"])
async def test_an_absent_id_is_not_found_and_a_malformed_one_is_refused(api: Api, method: str) -> None:
    with pytest.raises(Refused) as refused:
        await getattr(api, method)(str(uuid4()))
    assert refused.value.reason == ("CAMPAIGN_NOT_FOUND" if method == "get_campaign" else "RUN_NOT_FOUND")
    with pytest.raises(Refused) as refused:
        await getattr(api, method)("not-a-uuid")
    assert refused.value.reason == "INVALID_ARGUMENT"
