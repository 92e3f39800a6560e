"""Two worker hosts beside one: `python -m tests.faults.hosts_at_work`.

The database, a server and two workers, each on a host of its own. As many runs are queued, and then executed
by one worker and by both, in turn: with all the CPU that they get, and with a share of a core for each worker
(by cgroups), so that the cores of this machine, which they have in common with the database, are not what is
measured. Beside the rates stands what a run takes of CPU in each part.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from runengine_client import RunEngineClient
from runengine_server.auth import development
from runengine_server.logs import configure_logging
from runengine_server.processes.children import Child

from tests.bench.cpu import POSTGRESQL, Meter
from tests.support.network import Host, enter_own_network, missing, wire
from tests.support.patience import SECONDS
from tests.support.replicated_postgresql import Database
from tests.support.stack import environment, logging_to

_ROUNDS, _RUNS, _AT_ONCE = 5, 300, 16
_SHARE, _PERIOD_MICROS = 0.25, 20_000
_CONTROLLERS = Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup")
_TENANT = "org_hosts"


@dataclass(frozen=True)
class Round:
    """`rate` in runs a second, `cpu` in milliseconds a run, by part."""

    rate: float
    cpu: dict[str, float]


class AtWork:
    """What stands on the hosts."""

    def __init__(self, client: RunEngineClient, workers: Sequence[int], meter: Meter) -> None:
        self._client, self._meter = client, meter
        self.workers = workers

    async def round(self, count: int) -> Round:
        """Runs that so many workers execute, all queued before they are let go."""
        campaign = str(uuid.uuid4())
        self._signal(signal.SIGSTOP, len(self.workers))
        at_first = self._meter.read()
        try:
            places = asyncio.Semaphore(_AT_ONCE)
            await asyncio.gather(*(self._trigger(campaign, places) for _ in range(_RUNS)))
            before = self._meter.read()
        finally:
            self._signal(signal.SIGCONT, count)
        began = time.monotonic()
        async with asyncio.timeout(SECONDS):
            while True:
                page = await self._client.list_campaign_runs(campaign, limit=1)
                if page.status_counts.completed == _RUNS:
                    break
                await asyncio.sleep(0.05)
        seconds, after = time.monotonic() - began, self._meter.read()
        self._signal(signal.SIGCONT, len(self.workers))
        spent = {
            "worker": after.by_name["worker"] - before.by_name["worker"],
            POSTGRESQL: after.by_name[POSTGRESQL] - before.by_name[POSTGRESQL],
            "serve to trigger it": before.by_name["serve"] - at_first.by_name["serve"],
            f"{POSTGRESQL} for that": before.by_name[POSTGRESQL] - at_first.by_name[POSTGRESQL],
        }
        return Round(_RUNS / seconds, {name: taken / _RUNS * 1000 for name, taken in spent.items()})

    async def _trigger(self, campaign: str, places: asyncio.Semaphore) -> None:
        async with places:
            await self._client.trigger_run("four-steps", trigger_payload={}, campaign_id=campaign)

    def _signal(self, number: signal.Signals, count: int) -> None:
        for pid in self.workers[:count]:
            os.kill(pid, number)

    async def compare(self) -> str:
        """Rounds of one worker and of two, in turn; what came of them, in words."""
        await self.round(2)
        ones, twos = [], []
        for _ in range(_ROUNDS):
            ones.append(await self.round(1))
            twos.append(await self.round(2))
        one, two = (median(each.rate for each in rounds) for rounds in (ones, twos))

        def ms(rounds: list[Round], name: str) -> float:
            return median(each.cpu[name] for each in rounds)

        parts = [f"{name} {ms(ones, name):.2f} and {ms(twos, name):.2f}" for name in ones[0].cpu]
        return (
            f"one {one:.1f} runs/s, two {two:.1f}: {two / one:.2f} times as many; "
            f"ms of CPU a run with one and with two: {', '.join(parts)}"
        )


@contextmanager
def share_of_core(pid: int, share: float) -> Iterator[None]:
    """Limits a process to it in the block. Raises OSError where there is no controller."""
    root = next(each for each in _CONTROLLERS if (each / "cgroup.procs").exists())
    group = root / f"runengine-{pid}"
    group.mkdir()
    quota = int(share * _PERIOD_MICROS)
    try:
        if (group / "cpu.max").exists():
            (group / "cpu.max").write_text(f"{quota} {_PERIOD_MICROS}")
        else:
            (group / "cpu.cfs_period_us").write_text(str(_PERIOD_MICROS))
            (group / "cpu.cfs_quota_us").write_text(str(quota))
        (group / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        with contextlib.suppress(OSError):  # it has ended
            (root / "cgroup.procs").write_text(str(pid))
        group.rmdir()


def _start(host: Host, command: str, settings: dict[str, str], log: Path) -> Child:
    with host.inside(), logging_to(log):
        return Child(command, environment(**settings))


@asynccontextmanager
async def standing(directory: Path) -> AsyncIterator[AtWork]:
    """The hosts with all on them."""
    hosts = wire("db", "api", "worker-1", "worker-2")
    database = Database(hosts["db"], directory)
    address = f"{hosts['api'].address}:50051"
    async with AsyncExitStack() as stack:
        stack.callback(database.stop)
        await database.lead()
        settings = {
            "DATABASE_URL": database.url("app"),
            "STATE_DIR": str(directory),
            "CLERK_ISSUER": development.ISSUER,
            "CLERK_JWT_KEY": development.public_pem(directory),
            "GRPC_ADDRESS": address,
            "WORKFLOWS": "tests.bench.graphs:WORKFLOWS",
        }
        children = [
            _start(hosts[name], command, settings, directory / f"{name}.log")
            for name, command in (("api", "serve"), ("worker-1", "worker"), ("worker-2", "worker"))
        ]
        for child in children:
            stack.push_async_callback(child.stop)
        async with asyncio.timeout(SECONDS):
            await asyncio.gather(*(child.until_ready() for child in children))
        token = development.sign(directory, _TENANT, "user_hosts", ttl_seconds=3600)
        client = await stack.enter_async_context(RunEngineClient(address, token))
        yield AtWork(client, [child.pid for child in children[1:]], Meter([directory]))


async def trial() -> list[str]:
    """What came of it, in lines."""
    with tempfile.TemporaryDirectory(prefix="hosts-") as name:
        os.chmod(name, 0o755)  # for PostgreSQL's own user
        async with standing(Path(name)) as it:
            lines = [f"workers with what they get of {os.cpu_count()} cores: {await it.compare()}"]
            with ExitStack() as shares:
                try:
                    for pid in it.workers:
                        shares.enter_context(share_of_core(pid, _SHARE))
                except OSError:
                    return [*lines, "no shares of a core: there is no CPU controller of cgroups"]
                lines.append(f"workers with {_SHARE:g} of a core each: {await it.compare()}")
            return lines


def main() -> None:
    """The command."""
    if (lacking := missing()) is not None:
        sys.stderr.write(f"make hosts {lacking}\n")
        sys.exit(2)
    enter_own_network("tests.faults.hosts_at_work")
    configure_logging("error")
    sys.stdout.write("\n".join(asyncio.run(trial())) + "\n")


if __name__ == "__main__":
    main()
