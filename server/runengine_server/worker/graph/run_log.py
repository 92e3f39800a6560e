"""Log lines about a run."""

from __future__ import annotations

import time

import structlog

from runengine_server.domain.run import ClaimedRun
from runengine_server.metrics import RUN_SECONDS, RUNS_ENDED, STEPS
from runengine_server.tracing import end_run
from runengine_server.worker.graph.steps import BegunStep

_EVENTS = {"completed": "run completed", "failed": "run failed", "waiting": "run waits"}

_log = structlog.get_logger()


def fields_of_run(run: ClaimedRun) -> dict[str, object]:
    """What each line about a run says of it; `attempt` is the run's."""
    fields: dict[str, object] = {
        "run_id": str(run.id),
        "tenant": run.tenant_id,
        "workflow": run.workflow_name,
        "attempt": run.attempt,
    }
    return fields if run.trace_id is None else {**fields, "trace_id": run.trace_id}


class RunLog:
    """Logs what becomes of a run, each line with `duration_ms`: since its attempt was claimed first."""

    def __init__(self, run: ClaimedRun) -> None:
        self._log = _log.bind(**fields_of_run(run))
        self._workflow = run.workflow_name
        self._began = time.monotonic() - run.running_seconds

    def info(self, event: str, **fields: object) -> None:
        """One line."""
        duration = round((time.monotonic() - self._began) * 1000)
        self._log.info(event, duration_ms=duration, **fields)

    def ended(self, status: str, code: str = "", **fields: object) -> None:
        """One line for the end of an execution, which is counted: the run has completed, failed, or waits."""
        end_run(status, code)
        RUNS_ENDED.labels(self._workflow, status, code).inc()
        if status != "waiting":
            RUN_SECONDS.labels(self._workflow).observe(time.monotonic() - self._began)
        self.info(_EVENTS[status], **({"code": code} if code else {}), **fields)


def step_failed(run: ClaimedRun, step: BegunStep, code: str, error: BaseException, *, again: bool) -> None:
    """Counts an execution of a step that has failed, and logs it where it runs again: else the run tells."""
    STEPS.labels(run.workflow_name, "failed").inc()
    if again:
        fields = {"step": step.name, "step_attempt": step.attempt, "code": code}
        _log.info("a step failed and runs again", **fields_of_run(run), **fields, exc_info=error)
