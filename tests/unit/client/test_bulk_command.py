"""The commands that retry and cancel many runs."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import struct
import termios
from typing import Any

import pytest
from runengine.v1 import bulk_operation_service_pb2 as pb
from runengine.v1.run_pb2 import RunStatus
from runengine_client.json_view import operation_json

from tests.support.client_command import (
    ABORTED_OPERATION,
    DRY_RUN,
    ENDED_OPERATION,
    OPERATION,
    Command,
    Engine,
    uuid,
)

# Half-way, and as it waits for the quota.
HALF = pb.BulkOperation()
HALF.CopyFrom(OPERATION)
HALF.MergeFrom(pb.BulkOperation(done=2, pending=3, note="It waits for the quota."))


@pytest.fixture
async def engine() -> Engine:
    return Engine()


def created(engine: Engine) -> Any:
    (request,) = [each for each in engine.requests if isinstance(each, pb.CreateBulkOperationRequest)]
    return request


async def test_options_of_a_search_become_the_filter(engine: Engine, runengine: Command) -> None:
    engine.operations = [HALF, HALF]
    ended = await runengine(
        *("bulk", "retry", "--status", "failed", "--status", "cancelled", "--workflow", "greet"),
        *("--since", "2026-01-31", "--reason", "mail was down", "--pace", "7", "--idempotency-key", "again"),
    )
    request = created(engine)
    assert (request.action, request.reason, request.pace) == (pb.BULK_ACTION_RETRY, "mail was down", 7)
    assert list(request.filter.status) == [RunStatus.RUN_STATUS_FAILED, RunStatus.RUN_STATUS_CANCELLED]
    assert request.filter.workflow_name == "greet"
    assert request.filter.created_after.ToJsonString() == "2026-01-31T00:00:00Z"
    assert not request.ids
    # Two of its runs were refused.
    assert ended.code == 1
    assert ended.err.splitlines() == [
        f"{OPERATION.id}: 5 matched, 2 done, 3 pending",
        "It waits for the quota.",
        f"{OPERATION.id}: 5 matched, 3 done, 2 refused",
    ]
    assert ended.out.splitlines()[1:5] == [
        "action   retry",
        "status   ✓ completed",
        "runs     5 matched, 3 done, 2 refused",
        "refused  RUN_ACTIVE: 1",
    ]
    assert "\x1b" not in ended.out


async def test_named_runs_go_by_their_ids(engine: Engine, runengine: Command) -> None:
    engine.operations = [ABORTED_OPERATION]
    ended = await runengine("bulk", "cancel", uuid(1), uuid(2), "--json")
    request = created(engine)
    assert (request.action, list(request.ids)) == (pb.BULK_ACTION_CANCEL, [uuid(1), uuid(2)])
    assert not request.HasField("filter")
    assert ended.code == 3
    assert json.loads(ended.out) == operation_json(ABORTED_OPERATION)


async def test_an_operation_of_which_nothing_is_refused_ends_well(engine: Engine, runengine: Command) -> None:
    done = pb.BulkOperation()
    done.CopyFrom(ENDED_OPERATION)
    done.ClearField("refused")
    engine.operations = [done]
    assert (await runengine("bulk", "retry", "--status", "failed")).code == 0


async def test_a_dry_run_is_shown_and_not_waited_for(engine: Engine, runengine: Command) -> None:
    ended = await runengine("bulk", "cancel", "--campaign", uuid(12), "--dry-run")
    assert (ended.code, ended.err) == (0, "")
    assert created(engine).dry_run
    assert ended.out.splitlines()[:3] == [
        "action   retry",
        "status   ? dry run",
        "runs     5 matched, 5 pending",
    ]
    assert len(engine.requests) == 1
    assert json.loads(
        (await runengine("bulk", "cancel", uuid(1), "--dry-run", "--json")).out
    ) == operation_json(DRY_RUN)


async def test_an_operation_goes_on_without_the_command(engine: Engine, runengine: Command) -> None:
    ended = await runengine("bulk", "retry", uuid(1), "--no-wait")
    assert (ended.code, ended.err) == (0, "")
    assert len(engine.requests) == 1


async def test_an_interrupt_says_that_the_operation_goes_on(engine: Engine, runengine: Command) -> None:
    engine.operations = [HALF] * 1000
    process = await runengine.start("bulk", "retry", uuid(1))
    assert process.stderr is not None
    await process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, err = await process.communicate()
    assert process.returncode == 130
    assert err.decode().splitlines()[-1] == (
        f"the operation goes on: `runengine bulk abort {OPERATION.id}` ends it"
    )


async def test_a_terminal_shows_a_bar(engine: Engine, runengine: Command) -> None:
    terminal, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    engine.operations = [HALF]
    process = await runengine.start("bulk", "retry", uuid(1), "--json", stderr=theirs, TERM="xterm")
    out, _ = await process.communicate()
    shown = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", os.read(terminal, 65536).decode())
    os.close(theirs)
    os.close(terminal)
    assert json.loads(out) == operation_json(ENDED_OPERATION)
    assert "5/5 2 refused" in shown
    assert "It waits for the quota." in shown
    assert "matched" not in shown


async def test_operations_and_their_runs_are_listed(engine: Engine, runengine: Command) -> None:
    listed = await runengine("bulk", "list", "--limit", "2")
    assert [line.split()[:4] for line in listed.out.splitlines()[2:]] == [
        [OPERATION.id, "retry", "✓", "completed"],
        [OPERATION.id, "retry", "●", "running"],
    ]
    assert engine.requests[-1].limit == 2
    items = await runengine("bulk", "items", OPERATION.id, "--outcome", "refused", "--outcome", "done")
    assert [line.split() for line in items.out.splitlines()[2:]] == [
        [uuid(1), "✗", "refused", "RUN_ACTIVE"],
        [uuid(2), "✓", "done", "2026-01-31", "09:30:00"],
        [],
        ["2", "runs"],
    ]
    assert list(engine.requests[-1].outcome) == [pb.BULK_OUTCOME_REFUSED, pb.BULK_OUTCOME_DONE]
    narrow = await runengine("bulk", "items", OPERATION.id, COLUMNS="50")
    assert narrow.out.splitlines()[0].split() == [uuid(1), "✗", "refused"]
    assert uuid(2) in (await runengine("bulk", "list", COLUMNS="50")).out.replace(OPERATION.id, uuid(2))


async def test_an_operation_is_shown_and_aborted(engine: Engine, runengine: Command) -> None:
    shown, aborted = await runengine("bulk", "show", uuid(41)), await runengine("bulk", "abort", uuid(41))
    assert (shown.code, aborted.code) == (0, 0)
    assert "reason   the \ufffd[31mmail server was down" in shown.out.splitlines()
    assert "runs     5 matched, 2 done, 3 aborted" in aborted.out.splitlines()


async def test_an_operation_needs_runs(engine: Engine, runengine: Command) -> None:
    for wanted in ((), (uuid(1), "--status", "failed")):
        ended = await runengine("bulk", "cancel", *wanted)
        assert ended.code == 2
        assert "Say which runs" in ended.err
    assert engine.requests == []
