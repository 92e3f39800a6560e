# ruff: noqa: ASYNC110 - it waits for what other processes do to the database and the history
"""What breaks in a soak beside what breaks in a storm, and the processes to which it is done."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

from runengine.v1.run_pb2 import Run, RunStatus

from tests.faults.breaking import POISON, Breaking
from tests.faults.clients import Tenant
from tests.faults.process import DOORS
from tests.faults.reporting import REPORTS
from tests.faults.soak_graphs import ANYWAY, BLOCKED_SECONDS, DEPLOY, MAX_STATE_BYTES, NAME
from tests.faults.soak_schedule import STOPPING
from tests.faults.standing import Kept
from tests.support.stack import free_address

LEASE_SECONDS = 2.0
PREFIX = "soak-"
_GRAPHS = "tests.faults.soak_graphs"

# How long a process that was told to stop may take, on whatever machine; beyond it, it will not.
_STOP_SECONDS = 60.0
_READY_SECONDS = 60.0


class SoakFaults(Breaking):
    """The first of each command is spared what kills, so that it is there from the beginning to the end."""

    deadly = "soak-deadly"
    lease_seconds = LEASE_SECONDS

    def __init__(
        self,
        seed: int,
        directory: Path,
        history: Path,
        say: Callable[[str], object],
        workers: int = 3,
        zombies: bool = True,
    ) -> None:
        super().__init__(seed, directory, history, say)
        self._workers, self._zombies = workers, zombies
        self.gateways: list[Kept] = []
        self.spared: list[Kept] = []
        self.wrong: list[str] = []  # what a fault found that must not be
        self.logs: dict[str, Path] = {}

    def processes(self) -> list[Kept]:
        """Two servers, a gateway for each, workers, and two that stop in a step to become zombies."""
        common = self.settings(
            LEASE_SECONDS=str(LEASE_SECONDS),
            BLOCKED_SECONDS=str(BLOCKED_SECONDS),
            MAX_STATE_BYTES=str(MAX_STATE_BYTES),
            DRAIN_SECONDS="1",
            PUBLIC_URL="http://runengine",
        )
        common[REPORTS.removeprefix("RUNENGINE_")] = str(self.directory / "reports")
        for number in range(2):
            server = {**common, "GRPC_ADDRESS": free_address()}
            self.servers.append(self._kept("serve", number, server))
            self.gateways.append(self._kept("gateway", number, {**server, "REST_ADDRESS": free_address()}))
        for number in range(self._workers):
            spared = number == 0
            names = ("SPARING", "FILL", *(() if spared else ("DEADLY", "DEPLOYED")))
            workflows = ",".join(f"{_GRAPHS}:{each}" for each in names)
            kept = self._kept("worker", number, {**common, "WORKFLOWS": workflows})
            self.workers += [] if spared else [kept]
            self.spared += [kept] if spared else []
        self.spared += [self.servers[0], self.gateways[0]]
        armed = {
            **common,
            "WORKFLOWS": "tests.faults.graphs:ZOMBIES",
            "WORKER_CONCURRENCY": "16",
            "FAULT_POINTS": ",".join(DOORS),
        }
        if self._zombies:
            self.undertakers += [self._kept("worker", number, armed, "zombie") for number in range(2)]
        return [*self.measured.values(), *self.undertakers]

    @property
    def measured(self) -> dict[str, Kept]:
        """By its name, every process whose figures are compared."""
        every = [self.spared[0], *self.workers, *self.servers, *self.gateways]
        return {kept.settings["SOAK_NAME"]: kept for kept in every}

    def _kept(self, command: str, number: int, settings: dict[str, str], kind: str = "") -> Kept:
        name = f"{kind or command}-{number}"
        url = f"{settings['DATABASE_URL']}&application_name={PREFIX}{name}"
        settings = {**settings, "DATABASE_URL": url, NAME.removeprefix("RUNENGINE_"): name}
        self.logs[name] = self.directory / f"{name}.log"
        return Kept(command, settings, [], self.logs[name])

    def faults(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """Those of a storm, and more."""
        killed = {"worker": self.workers, "serve": self.servers[1:], "gateway": self.gateways[1:]}
        return {
            **super().faults(),
            **{f"kill -9 {name}": self._ending(kept, signal.SIGKILL) for name, kept in killed.items()},
            **{f"SIGTERM {name}": self._ending(kept, signal.SIGTERM) for name, kept in killed.items()},
            "stopped beyond the lease": self.stop_for_a_while,
            "unread log": self.leave_log_unread,
            "stranded": lambda: self.cut_off("stranded", self.proxy.strand, 1.0),
            "slowed": self.slow_down,
            "postgres restart": self.restart_postgres,
            "deploy": self.deploy,
            "blocked beyond the bound": lambda: self.meet("blocked beyond the bound", "soak-block"),
            "thread left": lambda: self.meet("thread left", "soak-thread"),
            STOPPING: lambda: self.meet(STOPPING, "soak-stop", wait=False),
            POISON: self.poison,
        }

    # Processes

    def _ending(self, kept: list[Kept], number: signal.Signals) -> Callable[[], Awaitable[None]]:
        async def end() -> None:
            await self.end(self.random.choice(kept), number)

        return end

    async def end(self, kept: Kept, number: signal.Signals) -> None:
        """One process, once it is there, and until it is there again."""
        await asyncio.wait_for(kept.ready.wait(), _READY_SECONDS)
        ended, pid = kept.ended, kept.pid
        os.kill(pid, number)
        try:
            await asyncio.wait_for(ended.wait(), _STOP_SECONDS)
        except TimeoutError:
            self.wrong.append(
                f"{kept.settings['SOAK_NAME']} did not end within {_STOP_SECONDS:g} s of SIGTERM"
            )
            os.kill(pid, signal.SIGKILL)
            return
        name = "kill -9" if number is signal.SIGKILL else number.name
        self.hit(f"{name} {kept.command}", pid=pid)
        await asyncio.wait_for(kept.ready.wait(), _READY_SECONDS)

    async def stop_for_a_while(self) -> None:
        """A worker that others take for dead, and that goes on."""
        kept = self.random.choice([*self.workers, self.spared[0]])
        await asyncio.wait_for(kept.ready.wait(), _READY_SECONDS)
        pid = kept.pid
        os.kill(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(LEASE_SECONDS * self.random.uniform(1.2, 2.5))
        finally:
            if kept.ready.is_set() and kept.pid == pid:
                os.kill(pid, signal.SIGCONT)
                self.hit("stopped beyond the lease", pid=pid)

    async def leave_log_unread(self) -> None:
        """A process whose log nobody reads any more, and a blip of its database."""
        kept = self.random.choice([*self.workers, self.servers[1], self.gateways[1]])
        kept.unread = True
        await self.end(kept, signal.SIGTERM)
        self.proxy.reset()
        self.hit("unread log", command=kept.command)

    # The database

    async def slow_down(self) -> None:
        """Every message takes some milliseconds."""
        self.proxy.delay = self.random.uniform(0.005, 0.05)
        try:
            await asyncio.sleep(self.random.uniform(1.0, 4.0))
            self.hit("slowed", delay=self.proxy.delay)
        finally:
            self.proxy.heal()

    async def restart_postgres(self) -> None:
        """In good order."""
        await asyncio.to_thread(self.postgres.stop)
        await asyncio.sleep(self.random.uniform(0.0, 1.5))
        await self.postgres.start()
        self.hit("postgres restart")

    # Runs

    async def meet(self, kind: str, workflow: str, wait: bool = True) -> None:
        """A run which does that to its worker."""
        tenant = self.random.choice(self.tenants)
        run = await self.own_run(tenant, workflow)
        begun = len(self.history.read())
        if not wait:
            self.hit(kind, run=run.id)
            return
        await self.until_ended([run.id], seconds=60)
        notes = itertools.islice(self.history.read(), max(0, begun - 50), None)
        if any(note["what"] == "entered" and note["run"] == run.id for note in notes):
            self.hit(kind, run=run.id)

    async def own_run(self, tenant: Tenant, workflow: str) -> Run:
        """One that nobody else cancels or retries."""
        payload = {"key": f"key-{self.random.getrandbits(64):016x}"}
        run = await tenant.trigger_until_told(workflow, payload, tenant.campaigns[0], payload["key"])
        tenant.runs.remove(run.id)
        return run

    async def deploy(self) -> None:
        """A node is renamed under a run that failed in it, and then comes back."""
        tenant = self.random.choice(self.tenants)
        run = await self.own_run(tenant, "soak-deployed")
        await self.until_ended([run.id])
        codes = [await self._code(tenant, run.id)]
        try:
            await self._roll_out("renamed")
            codes.append(await self._retried(tenant, run.id))
        finally:
            await self._roll_out("")
        codes.append(await self._retried(tenant, run.id))
        first, changed, last = codes
        if (first, changed) == ("STEP_FAILED", "completed") or last not in ("completed", *ANYWAY):
            self.wrong.append(f"I13: run {run.id} of soak-deployed went through {codes}")
        elif changed == "WORKFLOW_CHANGED":
            self.hit("deploy", run=run.id)

    async def _roll_out(self, deployed: str) -> None:
        for kept in self.workers:
            kept.settings = {**kept.settings, DEPLOY.removeprefix("RUNENGINE_"): deployed}
        for kept in self.workers:
            while True:
                await asyncio.wait_for(kept.ready.wait(), _READY_SECONDS)
                if self._deployed(kept) == deployed:
                    break
                await self.end(kept, signal.SIGTERM)

    @staticmethod
    def _deployed(kept: Kept) -> str:
        environment = Path(f"/proc/{kept.pid}/environ").read_bytes().split(b"\0")
        of = f"{DEPLOY}=".encode()
        return next((each[len(of) :].decode() for each in environment if each.startswith(of)), "")

    async def _retried(self, tenant: Tenant, run_id: str) -> str:
        async with asyncio.timeout(60):
            while await tenant.retry(run_id) is None:
                run = await tenant.get(run_id)
                if run is not None and run.status == RunStatus.RUN_STATUS_COMPLETED:
                    break
                await asyncio.sleep(0.1)
        await self.until_ended([run_id], seconds=60)
        return await self._code(tenant, run_id)

    async def _code(self, tenant: Tenant, run_id: str) -> str:
        async with asyncio.timeout(60):
            while (run := await tenant.get(run_id)) is None:
                await asyncio.sleep(0.1)
        return run.error.code if run.HasField("error") else RunStatus.Name(run.status)[11:].lower()
