# ruff: noqa: ASYNC110 - it asks until it is told
"""A network of hosts with all parts of the product on them, and the clients that load it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import asyncpg

from tests.faults.soak_clients import RestTenant
from tests.faults.standing import Kept, Standing
from tests.support.network import Host, wire
from tests.support.replicated_postgresql import Database

LEASE_SECONDS = 2.0
DATABASES, SERVERS = ("db-1", "db-2"), ("api-1", "api-2")
WORKERS, GATEWAYS = ("worker-1", "worker-2", "worker-3"), ("gateway-1", "gateway-2")
_USERS, _LOOKERS = 4, 4
_GRPC_PORT, _REST_PORT = 50051, 8080
# Of this process's own connections to a database that may be cut off.
_ADMIN_SECONDS = 12


class OnHost(Kept):
    """A process that is kept on a host."""

    def __init__(self, host: Host, command: str, settings: dict[str, str], log: Path) -> None:
        super().__init__(command, settings, [], log)
        self.host = host

    @contextlib.contextmanager
    def starting(self) -> Iterator[None]:
        with self.host.inside(), super().starting():
            yield


class Hosts(Standing):
    """What stands on the hosts."""

    def __init__(self, seed: int, directory: Path, history: Path, say: Callable[[str], object]) -> None:
        """Once: the hosts are there from then on."""
        super().__init__(seed, directory, history, say)
        self.hosts = wire(*DATABASES, *SERVERS, *WORKERS, *GATEWAYS)
        self.on: dict[str, OnHost] = {}

    async def start_database(self, stack: contextlib.AsyncExitStack) -> None:
        """A primary and its standby."""
        self.primary, self.standby = (Database(self.hosts[name], self.directory) for name in DATABASES)
        for database in (self.primary, self.standby):
            stack.callback(database.stop)
        await self.primary.lead()
        await self.standby.follow(self.primary)
        places = ",".join(f"{each.host.address}:{each.port}" for each in (self.primary, self.standby))
        self.database_url = f"postgresql://app@{places}/runengine?target_session_attrs=read-write"

    async def superuser(self) -> asyncpg.Connection:
        """Of the primary, which may be cut off."""
        return await asyncpg.connect(self.primary.url("postgres"), timeout=5, command_timeout=_ADMIN_SECONDS)

    def addresses(self) -> list[str]:
        """One that names all servers."""
        return ["ipv4:" + ",".join(f"{self.hosts[name].address}:{_GRPC_PORT}" for name in SERVERS)]

    def processes(self) -> list[Kept]:
        """All but the databases."""
        (servers,) = self.addresses()
        common = {key: value for key, value in self.settings().items() if key != "FAULT_SOCKET"}
        works = {
            "LEASE_SECONDS": str(LEASE_SECONDS),
            "WORKER_CONCURRENCY": "16",
            "WORKFLOWS": "tests.faults.graphs:STORM",
        }
        for name in SERVERS:
            address = f"{self.hosts[name].address}:{_GRPC_PORT}"
            self._put(name, "serve", {**common, "GRPC_ADDRESS": address})
        for name in WORKERS:
            self._put(name, "worker", {**common, **works})
        for name in GATEWAYS:
            address = f"{self.hosts[name].address}:{_REST_PORT}"
            self._put(name, "gateway", {**common, "GRPC_ADDRESS": servers, "REST_ADDRESS": address})
        return list(self.on.values())

    def _put(self, name: str, command: str, settings: dict[str, str]) -> None:
        log = self.history_path.with_name(f"{name}.log")
        self.on[name] = OnHost(self.hosts[name], command, settings, log)

    # Load

    def load(self) -> list[Coroutine[Any, Any, None]]:
        """What clients do until they are cancelled."""
        rests = [
            RestTenant(tenant, f"{self.hosts[name].address}:{_REST_PORT}", self.token(tenant.name))
            for tenant, name in zip(self.tenants, GATEWAYS, strict=False)
        ]
        return [
            self.lag.watch(),
            self.resume_all(),
            *(self.look() for _ in range(_LOOKERS)),
            *(self._trigger() for _ in range(_USERS)),
            *(self._use_rest(rest) for rest in rests),
        ]

    async def _trigger(self) -> None:
        while True:
            tenant = self.random.choice(self.tenants)
            campaign, payload = self.random.choice([*tenant.campaigns, None]), self.payload()
            await tenant.trigger_until_told(self.workflow(), payload, campaign, payload["key"])
            await asyncio.sleep(self.random.uniform(0.1, 0.6))

    async def _use_rest(self, rest: RestTenant) -> None:
        tenant = rest.tenant
        while True:
            payload, campaign = self.payload(), self.random.choice(tenant.campaigns)
            body = {
                "workflowName": self.workflow(),
                "triggerPayload": payload,
                "context": {"campaignId": campaign},
            }
            headers, asked = {"idempotency-key": payload["key"]}, {"key": payload["key"]}
            while not (run := await rest.ask("trigger", "POST", "/runs", asked, json=body, headers=headers)):
                await asyncio.sleep(0.1)
            tenant.runs.append(run["id"])
            await rest.ask("get", "GET", f"/runs/{run['id']}", {"run": run["id"]})
            await rest.ask("list", "GET", f"/campaigns/{campaign}/runs", {"campaign": campaign})
            await asyncio.sleep(self.random.uniform(0.1, 0.6))
