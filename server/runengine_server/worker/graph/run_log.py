"""Log lines about a run."""

from __future__ import annotations

import time

import structlog

from runengine_server.domain.run import ClaimedRun

_log = structlog.get_logger()


def fields_of_run(run: ClaimedRun) -> dict[str, object]:
    """What each line about a run says of it; `attempt` is the run's."""
    return {
        "run_id": str(run.id),
        "tenant": run.tenant_id,
        "workflow": run.workflow_name,
        "attempt": run.attempt,
    }


class RunLog:
    """Logs what becomes of a run, each line with `duration_ms`: since its attempt was claimed first."""

    def __init__(self, run: ClaimedRun) -> None:
        self._log = _log.bind(**fields_of_run(run))
        self._began = time.monotonic() - run.running_seconds

    def info(self, event: str, **fields: object) -> None:
        """One line."""
        duration = round((time.monotonic() - self._began) * 1000)
        self._log.info(event, duration_ms=duration, **fields)
