"""Clients that tell the history what they asked and what they were answered."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

from runengine.v1.campaign_pb2 import Campaign
from runengine.v1.run_pb2 import Run, RunStatus, WaitingFor
from runengine.v1.run_service_pb2 import ListCampaignRunsResponse
from runengine_client import RunEngineClient, RunEngineError

from tests.faults.history import History

DEADLINE_SECONDS = 4.0
_EVERY = 0.02


class Lag:
    """How late this process's own event loop is: what it is late with looks like a late answer."""

    def __init__(self) -> None:
        self._late: list[tuple[float, float]] = []
        self._due = time.monotonic() + _EVERY

    async def watch(self) -> None:
        """Looks until it is cancelled."""
        while True:
            self._due = time.monotonic() + _EVERY
            await asyncio.sleep(_EVERY)
            late = time.monotonic() - self._due
            if late > _EVERY:
                self._late.append((time.monotonic(), late))

    def since(self, began: float) -> float:
        """Seconds that it was late since `began`, on time.monotonic()."""
        now = max(0.0, time.monotonic() - self._due)
        return now + sum(late for at, late in reversed(self._late[-1000:]) if at >= began)


class Tenant:
    """One tenant's clients, one for each server. What fails is told and answers None."""

    _numbers = itertools.count()

    def __init__(self, name: str, clients: list[RunEngineClient], history: History, lag: Lag) -> None:
        self.name = name
        self.campaigns: list[str] = []
        self.runs: list[str] = []
        self.failures = 0
        self._resumes = itertools.count()
        self._clients = clients
        self._history = history
        self._lag = lag
        self._turn = itertools.cycle(clients)

    async def _ask(
        self,
        method: str,
        call: Callable[[RunEngineClient], Awaitable[Any]],
        server: int | None = None,
        **asked: Any,
    ) -> Any:
        client = next(self._turn) if server is None else self._clients[server]
        told: dict[str, Any] = {}
        answer = None

        async def send() -> None:
            nonlocal answer
            try:
                answer = await call(client)
                told.update(ok=True, **_told(answer))
            except RunEngineError as error:
                told.update(ok=False, reason=error.reason, detail=error.detail[:200])

        await self.noted(method, send, told, **asked)
        return answer

    async def noted(
        self, method: str, send: Callable[[], Awaitable[None]], told: dict[str, Any], **asked: Any
    ) -> None:
        """Sends a call, and notes it and its answer, which `send` puts into `told`."""
        number = next(self._numbers)
        self._history.note(
            "call", call=number, method=method, tenant=self.name, deadline=DEADLINE_SECONDS, **asked
        )
        began = time.monotonic()
        await send()
        seconds = time.monotonic() - began
        self.failures += not told["ok"]
        self._history.note("answer", call=number, seconds=seconds, lag=self._lag.since(began), **told)

    async def trigger(
        self, workflow: str, payload: dict[str, Any], campaign: str | None, key: str | None, **asked: Any
    ) -> Run | None:
        """A new run."""
        run: Run | None = await self._ask(
            "trigger",
            lambda client: client.trigger_run(
                workflow, trigger_payload=payload, campaign_id=campaign, idempotency_key=key
            ),
            key=key,
            **asked,
        )
        if run is not None:
            self.runs.append(run.id)
        return run

    async def trigger_until_told(
        self, workflow: str, payload: dict[str, Any], campaign: str | None, key: str
    ) -> Run:
        """The same with a key, again and again until there is an answer."""
        while True:
            if (run := await self.trigger(workflow, payload, campaign, key)) is not None:
                return run
            await asyncio.sleep(0.1)

    async def get(self, run_id: str, server: int | None = None, **asked: Any) -> Run | None:
        """A run."""
        run: Run | None = await self._ask(
            "get", lambda client: client.get_run(run_id), server, run=run_id, **asked
        )
        return run

    async def events(self, run_id: str, **asked: Any) -> None:
        """A run's timeline."""
        await self._ask("events", lambda client: client.list_run_events(run_id), run=run_id, **asked)

    async def cancel(self, run_id: str, **asked: Any) -> Run | None:
        """A run, cancelled."""
        run: Run | None = await self._ask(
            "cancel", lambda client: client.cancel_run(run_id), run=run_id, **asked
        )
        return run

    async def retry(self, run_id: str, **asked: Any) -> Run | None:
        """A run, queued again."""
        run: Run | None = await self._ask(
            "retry", lambda client: client.retry_run(run_id), run=run_id, **asked
        )
        return run

    async def resume(
        self, run: Run, key: str | None = None, value: str | None = None, **asked: Any
    ) -> Run | None:
        """A run that waits, resumed at all of its gates, with a value that no other resume has; with a key
        one may ask for the same again.
        """
        value = value or f"{self.name}:{next(self._resumes)}"
        gates = [gate_of(each) for each in run.waiting_for]
        given: dict[str, Any] = {"value": value}
        if len(gates) > 1 or value.endswith(("1", "3", "5", "7", "9")):
            given = {"values": {each.id: value for each in run.waiting_for}}
        resumed: Run | None = await self._ask(
            "resume",
            lambda client: client.resume_run(run.id, idempotency_key=key, **given),
            run=run.id,
            gates=gates,
            resume=value,
            key=key,
            **asked,
        )
        return resumed

    async def resume_unknown(self, run_id: str, **asked: Any) -> Run | None:
        """Resumes a run at a gate that it has not."""
        resumed: Run | None = await self._ask(
            "resume", lambda client: client.resume_run(run_id, values={"f" * 32: "-"}), run=run_id, **asked
        )
        return resumed

    async def list(self, campaign_id: str, **asked: Any) -> None:
        """A page of a campaign's runs."""
        await self._ask(
            "list", lambda client: client.list_campaign_runs(campaign_id), campaign=campaign_id, **asked
        )

    async def get_campaign(self, campaign_id: str, **asked: Any) -> None:
        """A campaign."""
        await self._ask(
            "get_campaign", lambda client: client.get_campaign(campaign_id), campaign=campaign_id, **asked
        )

    async def create_campaign(self, campaign_id: str) -> None:
        """A campaign of one's own."""
        await self._ask("create_campaign", lambda client: client.create_campaign(campaign_id))
        self.campaigns.append(campaign_id)


def gate_of(waiting_for: WaitingFor) -> str:
    """How a node, or else the graph, calls what a run waits for."""
    return str(json.loads(waiting_for.value) or f"at {waiting_for.step_id}")


def _word(status: RunStatus.ValueType) -> str:
    return RunStatus.Name(status).removeprefix("RUN_STATUS_").lower()


def _run(run: Run) -> dict[str, Any]:
    return {"id": run.id, "status": _word(run.status), "attempt": run.attempt}


def _told(answer: Any) -> dict[str, Any]:
    if isinstance(answer, Run):
        return {"run": _run(answer)}
    if isinstance(answer, Campaign):
        latest = answer.latest_run_id if answer.HasField("latest_run_id") else None
        return {"campaign": {"id": answer.id, "latest": latest}}
    if isinstance(answer, ListCampaignRunsResponse):
        counts = {
            field.name: getattr(answer.status_counts, field.name)
            for field in answer.status_counts.DESCRIPTOR.fields
        }
        return {"list": {"runs": [_run(run) for run in answer.runs], "total": answer.total, "counts": counts}}
    events = [
        [
            _word(event.from_status) if event.HasField("from_status") else None,
            _word(event.to_status),
            event.attempt,
            event.reason,
        ]
        for event in answer
    ]
    return {"events": events}
