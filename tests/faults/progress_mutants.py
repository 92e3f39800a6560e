"""The guards of what runs tell of their progress, each taken out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.faults.judging import mutant_of
from tests.faults.mutations import rewriting

_BOUNDS = "integration/test_progress_bounds.py::"
_WATCHES = "integration/test_watch_runs.py::"
_SENT = f"{_BOUNDS}test_nothing_is_sent_for_a_run_that_another_holds_or_that_has_ended"
_READ = f"{_BOUNDS}test_a_reader_takes_nothing_of_an_older_epoch_or_of_another_tenant"


def _tenant_of_a_reader() -> None:
    from runengine_server.rpc.run_watch import RunWatch

    add = RunWatch.add_progress
    RunWatch.add_progress = lambda self, progress: add(  # type: ignore[method-assign]
        self, replace(progress, tenant_id=self.scope.tenant_id)
    )


def _epoch_of_a_reader() -> None:
    from runengine_server.rpc.run_watch import RunWatch

    add = RunWatch.add_progress

    def whatever_epoch(self: Any, progress: Any) -> None:
        vars(self)["_known"].clear()
        add(self, progress)

    RunWatch.add_progress = whatever_epoch  # type: ignore[method-assign]


def _bound_of_a_run() -> None:
    from runengine_server.worker.progress import ProgressOutbox

    ProgressOutbox.has_room = lambda self, progress: True  # type: ignore[method-assign]


def _run_of_a_token() -> None:
    from runengine_server.domain import page_token

    vars(page_token)["_binding_of_scope"] = lambda *_: bytes(8)


def _scope_of_a_watch() -> None:
    from runengine_server.domain.changes import Scope

    Scope.has = lambda self, change: True  # type: ignore[method-assign]


PROGRESS = (
    mutant_of("epoch in progress", rewriting(["send_progress"], "AND epoch = held_epoch", ""), _SENT),
    mutant_of("tenant in progress", rewriting(["send_progress"], "tenant_id = tenant AND", ""), _SENT),
    mutant_of("status in progress", rewriting(["send_progress"], " AND status = 'running'", ""), _SENT),
    mutant_of("tenant of a reader of progress", _tenant_of_a_reader, _READ),
    mutant_of("epoch of a reader of progress", _epoch_of_a_reader, _READ),
    mutant_of(
        "bound of progress that waits",
        _bound_of_a_run,
        f"{_BOUNDS}test_a_flood_waits_for_nothing_and_keeps_a_bounded_number_of_events",
    ),
    mutant_of(
        "tenant and run of a resume token",
        _run_of_a_token,
        "integration/test_watch_run.py::test_a_token_of_another_run_is_refused",
    ),
    mutant_of(
        "transactions that were under way at a snapshot",
        rewriting(["find_changes"], "pg_snapshot_xmin(_since)", "pg_snapshot_xmax(_since)"),
        f"{_WATCHES}test_a_transition_that_commits_after_a_later_one_comes_once",
    ),
    mutant_of(
        "snapshot of a resume token",
        rewriting(["find_changes"], "AND NOT pg_visible_in_snapshot(transaction, _since)", ""),
        f"{_WATCHES}test_a_transition_that_commits_after_a_later_one_comes_once",
    ),
    mutant_of(
        "number of a resume token",
        rewriting(["find_changes"], "AND seq > _after AND at > oldest", "AND at > oldest"),
        f"{_WATCHES}test_a_watch_goes_on_after_any_of_its_messages_with_those_after_it",
    ),
    mutant_of(
        "scope of a watch",
        _scope_of_a_watch,
        f"{_WATCHES}test_a_watch_of_a_campaign_has_each_transition_of_its_runs_and_of_no_other",
    ),
)
