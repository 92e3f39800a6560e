"""Everything at once, for long: `python -m tests.faults.soak [--minutes N] [--seed N] [--keep DIR]`.

Clients work with graphs of every kind while the network, the processes and the runs themselves break, at
times and in ways that come from the seed. Before that, a warm-up without faults shows what the processes
have when they are quiet. In the end every run has to end, the invariants are checked, and each process
must have what it had: exactly, but for memory, which has a slack (`SLACK_MIB`).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runengine_client import RunEngineClient, RunEngineError
from runengine_server.logs import configure_logging

from tests.faults.breaking import POISON
from tests.faults.facts import Facts
from tests.faults.invariants import violations
from tests.faults.pools import fill_server, fill_worker
from tests.faults.resources import Reading, Reports, connections_of, least_of, memory_of, most_of, ports_of
from tests.faults.resuming import RESUMES
from tests.faults.soak_clients import UNSERVED, RestTenant, SoakClients
from tests.faults.soak_faults import PREFIX
from tests.faults.soak_graphs import SPARING
from tests.faults.soak_judge import artifact_files, errors_of, grown, stuck, wrong_answers, wrong_runs
from tests.faults.soak_schedule import LANES, ONCE, Planned, kinds_of, schedule
from tests.faults.standing import cancel

# A run that stops its workers is handed back ten times, with pauses of 92 s in all.
END_SECONDS = 240.0
# For so long do the thread pools of libraries keep idle threads; and how often is looked at the most.
QUIET_SECONDS = 11.0
_READINGS = 6
_FILLINGS = 5
_FAULT_SECONDS = 180.0


@dataclass
class Report:
    """What a soak did, and what came of it."""

    seed: int
    seconds: float
    planned: Counter[str] = field(default_factory=Counter)
    hits: Counter[str] = field(default_factory=Counter)
    runs: Counter[str] = field(default_factory=Counter)
    calls: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    ended_in: float = 0
    unswept: int = 0
    stuck: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    before: Reading = field(default_factory=dict)
    after: Reading = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Whether anything was not as it must be."""
        return bool(self.violations or self.stuck)

    def lines(self) -> list[str]:
        """The report for a person."""
        return [
            f"seed {self.seed}, {self.seconds / 60:.1f} minutes: {self.runs.total()} runs, "
            f"{self.calls} calls, {sum(self.hits[kind] for kind in self.planned)} faults of "
            f"{self.planned.total()} planned, {sum(self.hits[kind] for kind in RESUMES)} contested resumes",
            f"  runs: {_counted(self.runs)}",
            f"  refused: {_counted(self.refused)}",
            *(f"  {self.hits[kind]:4} {kind}" for kind in self.planned),
            *(f"  {line}" for line in self._resources()),
            f"  {self.unswept} files of artifacts have no row, for the hourly sweep to take",
            f"all ended {self.ended_in:.1f} s after the last fault",
            *(f"VIOLATION {words}" for words in self.violations),
            *(f"STUCK {words}" for words in self.stuck),
            f"{len(self.violations)} violations, {len(self.stuck)} stuck",
        ]

    def _resources(self) -> list[str]:
        found = []
        for name, figures in self.after.items():
            old = self.before.get(name, {})
            told = (
                f"{figure} {old.get(figure, Counter()).total()} → {kinds.total()}"
                for figure, kinds in figures.items()
                if kinds or old.get(figure)
            )
            found.append(f"{name}: {', '.join(told)}")
        return found


def _counted(counter: Counter[str]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in counter.most_common()) or "none"


class Soak(SoakClients):
    """One soak."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._baseline: Reading = {}

    @contextlib.asynccontextmanager
    async def soaking(self) -> AsyncIterator[None]:
        """Everything stands, and its clients are there."""
        reports = Reports(self.directory / "reports")
        async with contextlib.AsyncExitStack() as stack:
            self._reports = stack.enter_context(reports)
            await stack.enter_async_context(self.standing())
            for tenant in self.tenants:
                for gateway in self.gateways:
                    address, token = gateway.settings["REST_ADDRESS"], self.token(tenant.name)
                    self.rests.append(RestTenant(tenant, address, token))
                    await stack.enter_async_context(self.rests[-1].http)
            watching = asyncio.create_task(self.lag.watch())
            stack.push_async_callback(cancel, [watching])
            yield

    async def prepare_database(self) -> None:
        """With a workflow that no worker takes, and room for the full pools of all processes."""
        await super().prepare_database()
        await self.sql("ALTER SYSTEM SET max_connections = 250")
        await asyncio.to_thread(self.postgres.stop)
        await self.postgres.start()
        await self.sql("INSERT INTO workflows (name) VALUES ($1)", UNSERVED)

    # Before

    async def warm_up(self, seconds: float, quiet_seconds: float = QUIET_SECONDS) -> None:
        """The same load without faults, and what the processes have after it."""
        for workflow in (*SPARING, "soak-download"):
            tenant = self.random.choice(self.tenants)
            payload = self.soak_payload(workflow)
            await tenant.trigger_until_told(workflow, payload, None, payload["key"])
        await self._work(asyncio.sleep(seconds))
        await self.send_without_token()
        for server in range(len(self.servers)):
            await self.read_slowly(server)
        await self._cancel_unserved()
        await self.settle(END_SECONDS)
        await self.fill()
        # Each reading collects the garbage of every process, which is work of its own: so they are few. What
        # was there at any of them may be there in the end: a busy machine has connections closed meanwhile.
        most = last = await self.read()
        for _ in range(_READINGS):
            await asyncio.sleep(quiet_seconds)
            now = await self.read()
            settled = not grown(last, now) and not grown(now, last)
            most, last = most_of(most, now), now
            if settled:
                break
        self._baseline = most
        self.hits.clear()
        self.say("warm")

    async def _work(self, meanwhile: object) -> None:
        over = asyncio.Event()
        stories = [asyncio.create_task(story) for story in self.stories(over)]
        try:
            await meanwhile  # type: ignore[misc]
        finally:
            over.set()
            _, late = await asyncio.wait(stories, timeout=1)
            await cancel(list(late))
        for each in stories:
            if not each.cancelled() and (error := each.exception()) is not None:
                self.wrong.append(f"a client met {type(error).__name__}: {error}")

    # While

    async def go(self, planned: dict[str, list[Planned]], seconds: float) -> None:
        """Breaks what is planned, each lane beside the others, and heals everything in the end."""
        began = time.monotonic()
        try:
            await self._work(
                asyncio.gather(*(self._break(lane, began, seconds) for lane in planned.values()))
            )
        finally:
            self.proxy.heal()
            for kept in (*self.measured.values(), *self.undertakers):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(kept.pid, signal.SIGCONT)
        for name, kept in self.measured.items():
            if kept.is_unread and kept.child is not None:  # a pipe more than it had
                ended = kept.ended
                kept.child.kill()
                await ended.wait()
            try:
                await asyncio.wait_for(kept.ready.wait(), 60)
            except TimeoutError:
                self.wrong.append(f"{name} is not ready again although nothing is broken")
        await self._cancel_unserved()

    async def _cancel_unserved(self) -> None:
        """Also those of whose trigger the client has not heard what came of it."""
        queued = (
            "SELECT id FROM runs WHERE workflow_name = $1 AND status = 'queued' AND tenant_id = $2 LIMIT 1"
        )
        for tenant in self.tenants:
            while (run_id := await self.sql(queued, UNSERVED, tenant.name)) is not None:
                await tenant.cancel(str(run_id))

    async def _break(self, lane: Sequence[Planned], began: float, seconds: float) -> None:
        for each in lane:
            await asyncio.sleep(max(0.0, began + each.at - time.monotonic()))
            if time.monotonic() - began > seconds:
                return
            self.use_dice(each.seed)
            try:
                async with asyncio.timeout(_FAULT_SECONDS):
                    await self.break_one(each.kind)
            except TimeoutError:
                self.wrong.append(f"{each.kind} has not passed within {_FAULT_SECONDS:g} s")
            except Exception as error:
                self.wrong.append(f"{each.kind} met {type(error).__name__}: {error}")
            self.proxy.executed.clear()
        await asyncio.sleep(max(0.0, began + seconds - time.monotonic()))

    # After

    async def fill(self) -> None:
        """Every pool of connections and threads to its size."""
        for name, kept in self.measured.items():
            command, application = kept.command, f"{PREFIX}{name}"
            server = kept if command == "serve" else self.servers[0]
            token = self.token(self.tenants[0].name)
            async with RunEngineClient(server.settings["GRPC_ADDRESS"], token, timeout_seconds=30) as client:
                for left in reversed(range(_FILLINGS)):
                    try:
                        if command == "serve":
                            await fill_server(client, self.superuser_url, application)
                        elif command == "worker":
                            await fill_worker(client, self.superuser_url, application, f"{PREFIX}fill-{name}")
                            given = {"size": 1}
                            run = await client.trigger_run(f"{PREFIX}save-{name}", trigger_payload=given)
                            await client.wait(run.id, timeout_seconds=30)
                        break
                    except (AssertionError, TimeoutError, RunEngineError):
                        # On a busy machine a connection may take longer than a call waits for it.
                        if not left:
                            raise

    async def read(self) -> Reading:
        """What each process has, once it has collected its garbage."""
        pids = {kept.pid: name for name, kept in self.measured.items()}
        addresses = [kept.settings[key] for kept in self.gateways for key in ("GRPC_ADDRESS", "REST_ADDRESS")]
        reading = await self._reports.read(pids, ports_of(addresses), collect=True)
        for pid, name in pids.items():
            reading[name]["memory"] = Counter({"of its own": memory_of(pid)})
        admin = await self.superuser()
        try:
            for name, connections in (await connections_of(admin, PREFIX)).items():
                if name in reading:
                    reading[name]["connections"] = connections
            backends = await admin.fetch(
                "SELECT pid FROM pg_stat_activity WHERE starts_with(application_name, $1)", PREFIX
            )
        finally:
            await admin.close()
        memory = 0
        for backend in backends:
            with contextlib.suppress(FileNotFoundError):  # it has ended meanwhile
                memory = max(memory, memory_of(backend["pid"]))
        reading["postgres"] = {"memory": Counter({"of its largest backend": memory})}
        return reading

    async def judge(
        self, report: Report, end_seconds: float = END_SECONDS, readings: int = _READINGS
    ) -> None:
        """Waits until all has ended and is quiet, and fills the report."""
        names = [tenant.name for tenant in self.tenants]
        report.ended_in = await self.settle(end_seconds)
        self.say("settled")
        admin = await self.superuser()
        try:
            report.stuck = await stuck(admin, names)
            await self._compare(report, readings)
            rows = await self.read_rows()
            errors = await errors_of(admin, names)
            files = await artifact_files(admin, self.directory / "artifacts")
        finally:
            await admin.close()
        facts = Facts(self.history.read(), rows)
        if poisoned := sum(1 for _ in facts.notes("poison")):
            self.hits[POISON] = poisoned
        report.hits = self.hits
        report.calls = len(facts.calls)
        report.refused = Counter(note["reason"] for note in facts.notes("answer") if not note["ok"])
        report.runs = Counter(
            errors[run["id"]].code if run["id"] in errors else run["status"] for run in rows.runs
        )
        report.unswept = files.unswept
        lost = [f"{files.missing} artifacts have lost their files"] if files.missing else []
        report.violations = [
            *(each for each in violations(facts) if not (report.stuck and each.startswith("I3"))),
            *wrong_runs(facts, errors),
            *wrong_answers(facts),
            *self.wrong,
            *lost,
            *grown(report.before, report.after),
        ]

    async def _compare(self, report: Report, readings: int) -> None:
        report.before = self._baseline
        try:
            await self.fill()
        except (AssertionError, TimeoutError, RunEngineError) as error:
            self.wrong.append(
                f"a process does not work although nothing is broken: {type(error).__name__}: {error}"
            )
        self.say("filled")
        for reading in range(readings):
            if reading:
                await asyncio.sleep(QUIET_SECONDS)
            # What is left behind is there each time; a connection that is just made is not.
            now = await self.read()
            report.after = least_of(report.after, now) if reading else now
            if not grown(report.before, report.after):
                break


async def soak(
    seed: int,
    seconds: float,
    directory: Path,
    *,
    warm_seconds: float = 20.0,
    quiet_seconds: float = QUIET_SECONDS,
    workers: int = 3,
    lanes: Mapping[str, tuple[str, ...]] = LANES,
    once: Sequence[str] = ONCE,
    say: Callable[[str], object] = lambda line: None,
    then: Callable[[Soak, Report], object] | None = None,
) -> Report:
    """A soak of so long in that directory; `then` is called, and awaited, with all still standing."""
    it = Soak(seed, directory, directory / "history", say)
    report = Report(seed, seconds, Counter(kinds_of(lanes, once)))
    planned = schedule(seed, seconds, lanes, once)
    report.planned = Counter(dict.fromkeys(kinds_of(lanes, once), 0))
    report.planned.update(each.kind for lane in planned.values() for each in lane)
    async with it.soaking():
        await it.warm_up(warm_seconds, quiet_seconds)
        await it.go(planned, seconds)
        await it.judge(report)
        if then is not None:
            await then(it, report)  # type: ignore[misc]
    it.history.close()
    return report


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--keep", type=Path, help="where history and logs go; else on failure alone")
    options = parser.parse_args()
    configure_logging()
    began = time.monotonic()

    def say(line: str) -> None:
        sys.stderr.write(f"{time.monotonic() - began:6.1f} {line}\n")

    # As Ctrl-C, after which what was started is stopped.
    signal.signal(signal.SIGTERM, lambda number, frame: signal.raise_signal(signal.SIGINT))
    sys.stderr.write(f"seed {options.seed}\n")
    directory = Path(tempfile.mkdtemp(prefix="soak-"))
    directory.chmod(0o755)  # for PostgreSQL's own user
    report = asyncio.run(soak(options.seed, 60 * options.minutes, directory, say=say))
    sys.stdout.write("\n".join(report.lines()) + "\n")
    if report.failed or options.keep is not None:
        keep = options.keep or Path(tempfile.mkdtemp(prefix="soak-failed-"))
        keep.mkdir(exist_ok=True)
        for each in (directory / "history", *directory.glob("*.log")):
            shutil.copy(each, keep)
        sys.stdout.write(f"history and logs: {keep}\n")
    shutil.rmtree(directory)
    sys.exit(report.failed)


if __name__ == "__main__":
    main()
