"""The `runengine` command, each time a process of its own, against a real server in this process."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from runengine.v1.list_runs_pb2 import ListRunsResponse
from runengine.v1.run_pb2 import Run, RunError, RunStatus
from runengine.v1.run_service_pb2 import ListCampaignRunsResponse, StatusCounts, WatchRunResponse
from runengine.v1.workflow_service_pb2 import ListWorkflowsResponse
from runengine_client import struct_to_dict
from runengine_client.json_view import (
    campaign_json,
    events_json,
    output_json,
    page_json,
    run_json,
    runs_json,
    steps_json,
    workflow_json,
    workflows_json,
)

from tests.support.client_command import (
    CAMPAIGN,
    CANCELLED,
    COMPLETED,
    EVENTS,
    FAILED,
    OUTPUTS,
    QUEUED,
    RUNS,
    STEPS,
    WAITING,
    WORKFLOWS,
    Command,
    Ended,
    Engine,
    uuid,
)
from tests.support.terminal import terminal

FOUND = ListRunsResponse(runs=list(RUNS.values())[:2], limit=2, next_page_token="the next")
PAGE = ListCampaignRunsResponse(runs=[FAILED], total=4, limit=1, offset=2)
WHOLE = ListCampaignRunsResponse(runs=RUNS.values(), total=4, limit=4, status_counts=StatusCounts())


@pytest.fixture
async def engine() -> Engine:
    return Engine()


async def test_trigger_sends_what_it_is_given(engine: Engine, runengine: Command) -> None:
    (runengine.folder / "context.json").write_text('{"source": "test"}')
    ended = await runengine(
        *("trigger", "campaign-bundle", "--payload", "-", "--context", "@context.json"),
        *("--campaign", uuid(12), "--idempotency-key", "once"),
        stdin='{"brand": "Ünïcode", "slots": 3}',
    )
    assert (ended.code, ended.err) == (0, "")
    assert QUEUED.id in ended.out
    [request] = engine.requests
    assert request.workflow_name == "campaign-bundle"
    assert struct_to_dict(request.trigger_payload) == {"brand": "Ünïcode", "slots": 3}
    assert struct_to_dict(request.context) == {"source": "test", "campaignId": uuid(12)}
    assert engine.metadata["idempotency-key"] == "once"
    assert engine.metadata["authorization"] == "Bearer the-token"


@pytest.mark.parametrize(
    ("arguments", "document"),
    [
        (["trigger", "campaign-bundle"], run_json(QUEUED)),
        (["get", FAILED.id], run_json(FAILED)),
        (["steps", FAILED.id], steps_json(STEPS)),
        (["events", FAILED.id], events_json(EVENTS)),
        *((["output", run_id], output_json(each)) for run_id, each in OUTPUTS.items()),
        (["list", uuid(12), "--limit", "1", "--offset", "2"], page_json(PAGE)),
        (["list", uuid(12), "--all"], page_json(WHOLE)),
        (["runs", "--limit", "2"], runs_json(FOUND)),
        (["workflows"], workflows_json(ListWorkflowsResponse(workflows=WORKFLOWS))),
        (["workflows", "unserved"], workflow_json(WORKFLOWS[1])),
        (["get", WAITING.id], run_json(WAITING)),
        (["retry", FAILED.id], run_json(QUEUED)),
        (["resume", WAITING.id, "--value", "null"], run_json(QUEUED)),
        (["cancel", CANCELLED.id], run_json(CANCELLED)),
        (["campaign", "create"], campaign_json(CAMPAIGN)),
        (["campaign", "get", uuid(12)], campaign_json(CAMPAIGN)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
async def test_json_is_the_one_document_that_rest_returns(
    runengine: Command, arguments: list[str], document: dict[str, Any]
) -> None:
    ended = await runengine(*arguments, "--json")
    assert (ended.code, ended.err) == (0, "")
    assert json.loads(ended.out) == document
    assert ended.out.startswith('{\n  "')


async def test_json_may_be_asked_for_before_the_command(runengine: Command) -> None:
    ended = await runengine("--json", "campaign", "get", uuid(12))
    assert json.loads(ended.out) == campaign_json(CAMPAIGN)


async def test_options_before_the_command_and_after_it_go_before_the_environment(
    engine: Engine, runengine: Command
) -> None:
    elsewhere = {"RUNENGINE_GRPC_ADDRESS": "127.0.0.1:1", "RUNENGINE_TOKEN": "of-the-environment"}
    for ended in await asyncio.gather(
        runengine("--address", runengine.address, "--token", "given", "get", "0", **elsewhere),
        runengine("get", "0", "--address", runengine.address, "--token", "given", **elsewhere),
        runengine("--token", "overruled", "get", "0", "--token", "given", RUNENGINE_TOKEN="overruled"),
    ):
        assert ended.err == "error: No such run. (RUN_NOT_FOUND)\n"
        assert engine.metadata["authorization"] == "Bearer given"


@pytest.mark.parametrize(
    ("arguments", "ids"),
    [
        (["list", uuid(12)], list(RUNS)),
        (["runs"], list(RUNS)[:2]),
        (["steps", FAILED.id], [uuid(31), uuid(32)]),
        (["get", FAILED.id], [FAILED.id]),
        (["get", QUEUED.id], [COMPLETED.id]),
    ],
    ids=["list", "runs", "steps", "failed", "completed"],
)
async def test_output_fits_and_has_each_id_whole(
    runengine: Command, arguments: list[str], ids: list[str]
) -> None:
    widths = (80, 140)
    for width, ended in zip(
        widths,
        await asyncio.gather(*(runengine(*arguments, COLUMNS=str(width)) for width in widths)),
        strict=True,
    ):
        assert ended.code == 0
        assert max(len(line) for line in ended.out.splitlines()) <= width
        assert all(each in ended.out for each in ids)
        assert "…" not in ended.out


async def test_a_pipe_gets_one_line_a_run_without_colour(runengine: Command) -> None:
    ended = await runengine("list", uuid(12))
    lines = ended.out.splitlines()
    [failed] = [line.split() for line in lines if FAILED.id in line]
    assert failed == [
        *(FAILED.id, "campaign-bundle", "✗", "failed", "2026-01-31", "09:30:00", "12m", "34s", "1")
    ]
    assert lines[-1] == "4 of 4, offset 0"
    assert "\x1b" not in ended.out


async def test_a_status_filter_may_be_repeated(engine: Engine, runengine: Command) -> None:
    ended = await runengine("list", uuid(12), "--status", "failed", "--status", "cancelled")
    assert ended.code == 0
    assert list(engine.requests[0].status) == [RunStatus.RUN_STATUS_FAILED, RunStatus.RUN_STATUS_CANCELLED]


async def test_the_filters_of_a_search_reach_the_engine(engine: Engine, runengine: Command) -> None:
    before = datetime.now(UTC)
    given = ("--workflow", "greet", "--status", "failed", "--since", "1d", "--until", "2026-01-31")
    ended = await runengine("runs", *given)
    assert ended.code == 0
    assert ended.out.splitlines()[-1] == "the latest 2 runs; --all shows all"
    (request,) = engine.requests
    assert (request.workflow_name, list(request.status)) == ("greet", [RunStatus.RUN_STATUS_FAILED])
    since = request.created_after.ToDatetime(UTC)
    assert before <= since + timedelta(days=1) <= datetime.now(UTC)
    assert request.created_before.ToJsonString() == "2026-01-31T00:00:00Z"


async def test_a_search_shows_all_pages_when_it_is_told_to(engine: Engine, runengine: Command) -> None:
    ended = await runengine("runs", "--waiting", "--all")
    assert ended.code == 0
    assert [(each.waiting, each.page_token) for each in engine.requests] == [(True, ""), (True, "the next")]
    assert ended.out.splitlines()[-1] == "4 runs"


async def test_a_workflow_is_shown_with_what_follows_on_what(runengine: Command) -> None:
    every, one = await asyncio.gather(runengine("workflows"), runengine("workflows", "campaign-bundle"))
    assert [line.split()[:3] for line in every.out.splitlines()[2:]] == [
        ["campaign-bundle", "2", "2"],
        ["unserved", "0", "0"],
    ]
    assert one.out.splitlines()[:3] == [
        "campaign-bundle, workers: 2",
        "  __start__ → brief",
        "  brief (read-brief) → pages:render?, __end__?",
    ]


async def test_a_long_bundle_url_is_copied_in_one_piece(runengine: Command) -> None:
    ended = await runengine("campaign", "get", uuid(12), COLUMNS="80")
    assert CAMPAIGN.bundle_url in ended.out


async def test_an_escape_sequence_in_a_message_does_not_reach_the_terminal(
    engine: Engine, runengine: Command
) -> None:
    engine.end = Run(
        status=RunStatus.RUN_STATUS_FAILED,
        workflow_name="[bold]w[/bold]",
        error=RunError(code="STEP_FAILED", message="\x1b]0;title\x07 [red]text[/red]"),
    )
    ended = await runengine("get", QUEUED.id)
    assert ended.code == 0
    assert "\x1b" not in ended.out
    assert "\x07" not in ended.out
    assert "[bold]w[/bold]" in ended.out
    assert "[red]text[/red]" in ended.out


@pytest.mark.parametrize(
    ("command", "end", "code"),
    [("trigger", COMPLETED, 0), ("trigger", FAILED, 3), ("retry", CANCELLED, 3)],
    ids=["completed", "failed", "cancelled"],
)
async def test_waiting_shows_the_run_as_it_ended_and_says_so_in_the_exit_code(
    engine: Engine, runengine: Command, command: str, end: Run, code: int
) -> None:
    engine.end = end
    ended = await runengine(command, FAILED.id, "--wait", "--json")
    assert (ended.code, ended.err) == (code, "")
    assert json.loads(ended.out) == run_json(end)


async def test_waiting_in_a_terminal_shows_the_steps_on_stderr(engine: Engine, runengine: Command) -> None:
    engine.watched = [WatchRunResponse(step=STEPS[0]), WatchRunResponse(step_transition=STEPS[1])]
    async with terminal() as shown:
        process = await runengine.start("trigger", "w", "--wait", "--json", stderr=shown.end, TERM="xterm")
        out, _ = await process.communicate()
        await shown.until("attempt 3")
        assert json.loads(out) == run_json(COMPLETED)
        assert [line.rstrip() for line in shown.text.splitlines()] == [
            f"run {QUEUED.id}",
            "✓ completed  generate_images  820 ms, cached",
            "✗ failed     render_bundle  attempt 3",
            "",
        ]


async def test_a_refusal_is_one_line_and_exit_code_1(runengine: Command) -> None:
    ended = await runengine("get", "0")
    assert ended == Ended(1, "", "error: No such run. (RUN_NOT_FOUND)\n")


async def test_violations_and_the_time_to_wait_have_lines_of_their_own(runengine: Command) -> None:
    malformed, busy = await asyncio.gather(runengine("trigger", "unknown"), runengine("trigger", "busy"))
    assert malformed.err.splitlines() == [
        "error: The request is malformed. (INVALID_ARGUMENT)",
        "  workflow_name: No such workflow.",
    ]
    assert busy.err.splitlines() == ["error: Over the quota. (QUOTA_EXCEEDED)", "  try again in 2.5 s"]
    assert malformed.code == busy.code == 1


async def test_with_json_the_last_line_of_a_refusal_is_an_object(runengine: Command) -> None:
    ended = await runengine("trigger", "unknown", "--json")
    assert ended.out == ""
    assert json.loads(ended.err.splitlines()[-1]) == {
        "reason": "INVALID_ARGUMENT",
        "detail": "workflow_name: No such workflow.",
        "metadata": {"status": "queued"},
        "violations": [{"field": "workflow_name", "description": "No such workflow."}],
    }


async def test_a_server_that_is_away_is_one_line_that_names_the_address(runengine: Command) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        ended = await runengine("get", "0", "--address", address)
    [line] = ended.err.splitlines()
    assert ended.code == 1
    assert line.startswith(f"error: The run engine at {address} cannot be reached")
    assert line.endswith("(UNAVAILABLE)")


async def test_without_a_token_one_line_says_how_to_get_one(runengine: Command) -> None:
    ended = await runengine("get", "0", RUNENGINE_TOKEN="")
    [line] = ended.err.splitlines()
    assert ended.code == 2
    assert "runengine-server token --org ORG" in line


async def test_a_payload_that_cannot_be_sent_is_a_usage_error(engine: Engine, runengine: Command) -> None:
    sentences = {
        "{": "not JSON",
        "[1]": "$ must be a JSON object, not list",
        '{"a": NaN}': "$.a is nan",
        '{"a": 1, "a": 2}': "the key 'a' appears twice",
        '{"a": 9007199254740993}': "$.a is an integer beyond",
        "[" * 100_000: "not JSON",
        "@nowhere.json": "cannot read nowhere.json",
    }
    results = await asyncio.gather(
        *(runengine("trigger", "w", "--payload", payload, COLUMNS="140") for payload in sentences)
    )
    for sentence, ended in zip(sentences.values(), results, strict=True):
        assert ended.code == 2
        assert sentence in ended.err
        assert "Traceback" not in ended.err
    assert not engine.requests


async def test_other_misuse_is_a_usage_error_too(runengine: Command) -> None:
    for ended in await asyncio.gather(
        runengine("list", uuid(12), "--status", "done"),
        runengine("list", uuid(12), "--all", "--limit", "5"),
        runengine("runs", "--all", "--limit", "5"),
        runengine("runs", "--since", "yesterday"),
        runengine("workflows", "nobody's"),
        runengine("get"),
        runengine("get", "0", "--token", "é"),
        runengine("get", "\udcff"),
    ):
        assert ended.code == 2
        assert "rror" in ended.err
        assert "Traceback" not in ended.err


async def test_an_interrupt_ends_it_quietly_with_130(engine: Engine, runengine: Command) -> None:
    process = await runengine.start("get", "hang")
    await engine.hanging.wait()
    process.send_signal(signal.SIGINT)
    assert await process.communicate() == (b"", b"")
    assert process.returncode == 130


async def test_the_artifacts_of_a_run_are_listed_with_their_sizes(runengine: Command) -> None:
    ended, none = await runengine("artifacts", uuid(2)), await runengine("artifacts", QUEUED.id)
    assert (ended.code, ended.err) == (0, "")
    lines = [line.split() for line in ended.out.splitlines()]
    assert lines[-2] == [uuid(31), "bundle.zip", "1,234,567", "application/zip"]
    assert "\x1b" not in ended.out
    assert none == Ended(0, "no artifacts\n", "")


async def test_a_download_is_saved_under_its_own_name_and_replaces_nothing(runengine: Command) -> None:
    first, second = await runengine("download", uuid(31)), await runengine("download", uuid(31))
    assert first == Ended(0, "bundle.zip  text/plain  4 bytes\n", "")
    assert (runengine.folder / "bundle.zip").read_bytes() == b"\x00\xffab"
    assert second.code == 1
    assert second.err.startswith("error: bundle.zip is there already")


async def test_a_download_goes_where_it_is_told(runengine: Command) -> None:
    (runengine.folder / "there").write_text("old")
    file, stdout, nowhere = await asyncio.gather(
        runengine("download", uuid(31), "-o", "there"),
        runengine("download", uuid(31), "-o", "-"),
        runengine("download", uuid(31), "-o", "no/such/folder"),
    )
    assert file.code == 0
    assert (runengine.folder / "there").read_bytes() == b"\x00\xffab"
    assert stdout.out.encode("utf-8", "surrogateescape") == b"\x00\xffab"
    assert nowhere == Ended(1, "", "error: cannot write no/such/folder: No such file or directory\n")


async def test_a_downloads_name_leads_nowhere_else(engine: Engine, runengine: Command) -> None:
    engine.artifact_name = "../outside"
    assert (await runengine("download", uuid(31))).code == 0
    assert (runengine.folder / "outside").exists()


@pytest.mark.parametrize(
    ("run_id", "shown"),
    [
        ("shown", '{\n  "words": [\n    "wörd",\n    null\n  ],\n  "count": 1\n}\n'),
        ("null", "null\n"),
        ("large", f"The output is larger than 1 MiB. `runengine download {uuid(20)}` saves it.\n"),
        ("strange", "The output cannot be shown as JSON: it is \ufffd[31mred\n"),
    ],
)
async def test_an_output_is_shown_as_json_or_in_words(runengine: Command, run_id: str, shown: str) -> None:
    ended = await runengine("output", run_id)
    assert (ended.code, ended.err, ended.out) == (0, "", shown)


@pytest.mark.parametrize("step", ["generate_images", uuid(21)], ids=["its name", "its id"])
async def test_the_data_of_a_step_is_shown_as_json_by_its_name_or_its_id(
    runengine: Command, step: str
) -> None:
    ended = await runengine("step-data", COMPLETED.id, step)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines() == [
        f"generate_images {uuid(21)} attempt 1",
        "input",
        *json.dumps({"slots": ["w\u00f6rd", None]}, indent=2, ensure_ascii=False).splitlines(),
        "update",
        "null",
    ]


async def test_the_data_of_a_step_that_is_not_there_is_a_note(engine: Engine, runengine: Command) -> None:
    ended = await runengine("step-data", COMPLETED.id, "render_bundle", "--attempt", "3", "--json")
    assert json.loads(ended.out) == {
        "steps": [
            {
                "id": uuid(22),
                "stepId": "render_bundle",
                "attempt": 3,
                "input": None,
                "inputNote": "It is \x1b[31mred",
                "update": None,
                "updateNote": "The step has not completed.",
            }
        ]
    }
    assert [request.attempt for request in engine.requests] == [3]
    ended = await runengine("step-data", COMPLETED.id, "render_bundle")
    assert "It is \ufffd[31mred" in ended.out


async def test_a_run_that_waits_for_somebody_is_not_shown_as_running(
    engine: Engine, runengine: Command
) -> None:
    engine.found = [WAITING]
    for shown in (await runengine("get", WAITING.id), await runengine("runs")):
        assert "◆ waiting" in shown.out
        assert "● running" not in shown.out


async def test_a_run_ends_in_the_log_after_its_steps(runengine: Command) -> None:
    lines = (await runengine("logs", FAILED.id)).out.splitlines()
    assert [line.split()[3] for line in lines] == [
        *("queued", "running", "running", "completed", "failed", "failed")
    ]
    assert "run, attempt 1" in lines[-1]


async def test_data_of_a_step_that_the_run_has_not_is_refused(runengine: Command) -> None:
    ended = await runengine("step-data", COMPLETED.id, "render")
    assert (ended.code, ended.err) == (2, "error: the run has no step 'render'\n")


async def test_help_names_every_command(runengine: Command) -> None:
    ended = await runengine("--help")
    assert ended.code == 0
    for name in (
        "trigger",
        "get",
        "steps",
        "runs",
        "list",
        "workflows",
        "output",
        "retry",
        "resume",
        "cancel",
        "download",
        "campaign",
    ):
        assert name in ended.out
