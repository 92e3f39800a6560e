# ruff: noqa: ASYNC110 - it asks until a run has ended
"""Clients of a soak: over gRPC and REST, patient and hasty, of one's own things and of others'."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import httpx
from runengine.v1.artifact_service_pb2 import DownloadArtifactRequest
from runengine.v1.artifact_service_pb2_grpc import ArtifactServiceStub
from runengine.v1.run_pb2 import RunStatus
from runengine_client import RunEngineClient, RunEngineError

from tests.faults.clients import DEADLINE_SECONDS, Tenant
from tests.faults.leak_graphs import LARGE
from tests.faults.soak_faults import SoakFaults

UNSERVED = "soak-unserved"
_USERS, _LOOKERS = 6, 4

# How often each workflow is triggered, beside those that faults are made of.
_WEIGHTS = {
    "storm": 6,
    "storm-nested": 1,
    "storm-gated": 1,
    "soak-fan": 2,
    "soak-nested": 3,
    "soak-gate": 1,
    "soak-handler": 2,
    "soak-group": 2,
    "soak-exit": 1,
    "soak-slow": 2,
    "soak-large": 2,
    "soak-artifacts": 1,
    "soak-fork": 1,
    "soak-deployed": 1,
}
_SIZES = {
    "soak-fan": (20, 100, 300),
    "soak-large": (10_000, 500_000, 1_900_000, 3_000_000),
    "soak-artifacts": (5, 50, 150),
}
_MESSAGES, _MESSAGE_BYTES = 30, 2 * 1024 * 1024 - 4096
_REFUSED = {"UNAUTHENTICATED", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"}


class RestTenant:
    """A tenant over REST; its calls are noted as those of Tenant are, under the same names."""

    def __init__(self, tenant: Tenant, address: str, token: str) -> None:
        self.tenant = tenant
        self.http = httpx.AsyncClient(
            base_url=f"http://{address}", headers={"authorization": f"Bearer {token}"}, timeout=None
        )

    async def ask(self, method: str, verb: str, path: str, asked: dict[str, Any], **given: Any) -> Any:
        """What was answered, if it was no error."""
        answered: dict[str, Any] = {}

        async def send() -> None:
            try:
                async with asyncio.timeout(DEADLINE_SECONDS):
                    response = await self.http.request(verb, path, **given)
                body = response.json()
            except TimeoutError:
                answered.update(ok=False, reason="DEADLINE_EXCEEDED")
            except (httpx.TransportError, ValueError):  # its process was killed
                answered.update(ok=False, reason="UNAVAILABLE")
            else:
                if response.is_success:
                    answered.update(ok=True, **_told(method, body))
                else:
                    answered.update(ok=False, reason=body["reason"], detail=body["detail"])

        await self.tenant.noted(method, send, answered, **asked)
        return answered.get("run") or answered.get("ok")


def _told(method: str, body: Any) -> dict[str, Any]:
    def run(of: Any) -> dict[str, Any]:
        return {"id": of["id"], "status": of["status"], "attempt": of["attempt"]}

    if method == "list":
        runs = [run(each) for each in body["runs"]]
        return {"list": {"runs": runs, "total": body["total"], "counts": body["statusCounts"]}}
    if method == "get_campaign":
        return {"campaign": {"id": body["id"], "latest": body["latestRunId"]}}
    return {"run": run(body)} if method in ("get", "trigger", "cancel", "retry") else {}


class SoakClients(SoakFaults):
    """What clients do all the while."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.rests: list[RestTenant] = []

    def faults(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """With those that clients are."""
        return {
            **super().faults(),
            "messages without a token": self.send_without_token,
            "slow readers": self.read_slowly,
        }

    def stories(self, over: asyncio.Event) -> list[Any]:
        """All of them, each until it is over."""
        return [
            *(self._again(self._use, over) for _ in range(_USERS)),
            *(self._again(self._use_rest, over) for _ in range(2)),
            *(self.look() for _ in range(_LOOKERS)),
            self.resume_all(),
            self._again(self._mistake, over),
        ]

    def soak_payload(self, workflow: str) -> dict[str, Any]:
        """A run of the workflow."""
        if workflow.startswith("storm"):
            return self.payload()
        size = self.random.choice(_SIZES.get(workflow, (1,)))
        return {"key": f"key-{self.random.getrandbits(64):016x}", "size": size}

    def choose(self) -> tuple[str, dict[str, Any], str | None]:
        """A workflow, its payload, and a campaign of `tenant`, or none, by its place."""
        (workflow,) = self.random.choices(list(_WEIGHTS), list(_WEIGHTS.values()))
        return workflow, self.soak_payload(workflow), self.random.choice(("first", "second", None))

    async def _again(self, story: Any, over: asyncio.Event) -> None:
        while not over.is_set():
            await story()
            await asyncio.sleep(self.random.uniform(0.0, 0.2))

    async def _use(self) -> None:
        """A run, which is looked at until it has ended, and tried again now and then."""
        tenant = self.random.choice(self.tenants)
        workflow, payload, place = self.choose()
        campaign = None if place is None else tenant.campaigns[place == "second"]
        if self.random.random() < 0.7:
            run = await tenant.trigger_until_told(workflow, payload, campaign, payload["key"])
        else:
            run = await tenant.trigger(workflow, {**payload, "key": None}, campaign, None)  # type: ignore[assignment]
        if run is None:
            return
        if self.random.random() < 0.05:
            await tenant.cancel(run.id)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(15):
                await self._until_ended(tenant, run.id)
                if self.random.random() < 0.6:
                    await tenant.retry(run.id)
                    await self._until_ended(tenant, run.id)

    async def _until_ended(self, tenant: Tenant, run_id: str) -> None:
        active = (RunStatus.RUN_STATUS_QUEUED, RunStatus.RUN_STATUS_RUNNING)
        while (run := await tenant.get(run_id)) is None or run.status in active:
            await asyncio.sleep(self.random.uniform(0.1, 0.5))

    async def _use_rest(self) -> None:
        rest = self.random.choice(self.rests)
        tenant = rest.tenant
        workflow, payload, place = self.choose()
        campaign = tenant.campaigns[place == "second"]
        body = {"workflowName": workflow, "triggerPayload": payload, "context": {"campaignId": campaign}}
        headers = {"idempotency-key": payload["key"]}
        asked = {"key": payload["key"]}
        run = await rest.ask("trigger", "POST", "/runs", asked, json=body, headers=headers)
        if run:
            tenant.runs.append(run["id"])
            for method, verb, tail in (
                ("get", "GET", ""),
                ("steps", "GET", "/steps"),
                ("cancel" if self.random.random() < 0.1 else "get", "", ""),
                ("get", "GET", ""),
            ):
                verb = verb or ("DELETE" if method == "cancel" else "GET")
                await rest.ask(method, verb, f"/runs/{run['id']}{tail}", {"run": run["id"]})
                await asyncio.sleep(self.random.uniform(0.0, 0.5))
        await rest.ask("list", "GET", f"/campaigns/{campaign}/runs", {"campaign": campaign})
        await rest.ask("get_campaign", "GET", f"/campaigns/{campaign}", {"campaign": campaign})

    async def _mistake(self) -> None:
        """What must be refused, and what nobody takes."""
        tenant = self.random.choice(self.tenants)
        rest = self.random.choice(self.rests)
        await tenant.trigger("no-such-workflow", {}, None, None, expected=["INVALID_ARGUMENT"])
        expected = {"expected": ["INVALID_ARGUMENT"]}
        headers = {"content-type": "application/json"}
        await rest.ask("wrong", "POST", "/runs", expected, content=b'{"a": NaN', headers=headers)
        await rest.ask("wrong", "GET", f"/campaigns/{tenant.campaigns[0]}/runs?limit=0", expected)
        run = await tenant.trigger(UNSERVED, {}, tenant.campaigns[0], None)
        if run is not None:
            tenant.runs.remove(run.id)
            if self.random.random() < 0.5:
                await tenant.cancel(run.id)
        await asyncio.sleep(self.random.uniform(0.5, 2.0))

    # Faults of clients, all done to the server and the gateway that are spared

    async def send_without_token(self) -> None:
        """Many large messages of somebody who may not send any."""
        own = [("grpc.use_local_subchannel_pool", 1)]
        codes: Counter[str] = Counter()

        async def send(channel: grpc.aio.Channel) -> None:
            call: Any = channel.unary_unary("/runengine.v1.RunService/ListRunEvents")
            try:
                await call(bytes(_MESSAGE_BYTES), timeout=20)
                codes["OK"] += 1
            except grpc.aio.AioRpcError as error:
                codes[error.code().name] += 1

        async with grpc.aio.insecure_channel(self.servers[0].settings["GRPC_ADDRESS"], own) as channel:
            await asyncio.gather(*(send(channel) for _ in range(_MESSAGES)))
        if codes.keys() <= _REFUSED:
            self.hit("messages without a token", codes=codes)
        else:
            self.wrong.append(f"messages without a token were answered {dict(codes)}")

    async def read_slowly(self, server: int = 0) -> None:
        """Readers of a large artifact: one that takes its time, over gRPC and REST, and some that vanish."""
        tenant = self.random.choice(self.tenants)
        run = await self.own_run(tenant, "soak-download")
        await self.until_ended([run.id], seconds=60)
        address, token = self.servers[server].settings["GRPC_ADDRESS"], self.token(tenant.name)
        artifact = await self._artifact(address, token, run.id)
        if artifact is None:
            return
        path = f"/artifacts/{artifact}"
        async with (
            grpc.aio.insecure_channel(address) as channel,
            httpx.AsyncClient(base_url=f"http://{self.gateways[server].settings['REST_ADDRESS']}") as http,
        ):
            headers = {"authorization": f"Bearer {token}"}
            downloads = [self._download(channel, artifact, token) for _ in range(3)]
            await asyncio.gather(*(each.read() for each in downloads), return_exceptions=True)
            async with http.stream("GET", path, headers=headers) as vanishing:
                await anext(vanishing.aiter_raw())
            downloads[0].cancel()
            taken = await asyncio.gather(
                self._take_slowly(self._download(channel, artifact, token)),
                self._take_slowly_over_rest(http, path, headers),
            )
        # The database may be away when it is asked for; what has begun ends.
        if any(each not in (None, LARGE) for each in taken):
            self.wrong.append(f"slow readers got {taken} of {LARGE} bytes")
        elif LARGE in taken:
            self.hit("slow readers", run=run.id)

    async def _artifact(self, address: str, token: str, run_id: str) -> str | None:
        async with RunEngineClient(address, token, timeout_seconds=10) as client, asyncio.timeout(30):
            while True:
                with contextlib.suppress(RunEngineError):
                    steps = await client.list_run_steps(run_id)
                    return next((saved for step in steps for saved in step.output_artifact_ids), None)
                await asyncio.sleep(0.1)

    def _download(self, channel: grpc.aio.Channel, artifact: str, token: str) -> Any:
        metadata = (("authorization", f"Bearer {token}"),)
        return ArtifactServiceStub(channel).DownloadArtifact(
            DownloadArtifactRequest(artifact_id=artifact), metadata=metadata
        )

    async def _take_slowly(self, call: Any) -> int | None:
        taken = 0
        try:
            while (part := await call.read()) is not grpc.aio.EOF:
                taken += len(part.data)
                await asyncio.sleep(0.01)
        except grpc.aio.AioRpcError:
            return None if taken == 0 else taken
        return taken

    async def _take_slowly_over_rest(
        self, http: httpx.AsyncClient, path: str, headers: dict[str, str]
    ) -> int | None:
        taken = 0
        with contextlib.suppress(httpx.TransportError):
            async with http.stream("GET", path, headers=headers, timeout=60) as response:
                if response.status_code != 200:
                    return None
                async for part in response.aiter_raw(64 * 1024):
                    taken += len(part)
                    await asyncio.sleep(0.01)
        return taken
