"""A worker that comes back from the dead exactly while its successor is in the middle of a step.

One worker is stopped with many runs in its hands, each about to do something else; another takes them
over; then the first one goes on, does what it was about to, and nothing of it counts.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from runengine.v1.run_pb2 import RunStatus
from runengine_client import RunEngineClient
from runengine_server.processes.children import Child

from tests.faults.arrivals import SECONDS, Arrival, Arrivals
from tests.faults.clients import Lag, Tenant
from tests.faults.facts import Facts, read_rows
from tests.faults.history import History, Note
from tests.faults.invariants import violations
from tests.faults.process import DOORS
from tests.support.leases import LEASE_ENDS
from tests.support.stack import UNDER_TEST, Stack

# Nobody waits for its end: the clocks are moved. A heartbeat comes after a third of it.
LEASE_SECONDS = 30
RUNS_OF_A_KIND = 2


@dataclass(frozen=True)
class Kind:
    """What the zombie does. `door`: the write that it has decided when it is stopped, else it is in its
    node; `word` is what its node is told; `by_zombie` the steps that it had recorded while the run
    was still its own; `mid_step` where its successor is then; `asks` how often its node asks somebody.
    """

    door: str | None = None
    word: str = "go"
    manner: str = "gate"
    by_zombie: tuple[str, ...] = ()
    mid_step: str = "first"
    workflow: str = "zombie"
    asks: int = 0

    @property
    def write(self) -> str | None:
        """The write of its door."""
        if self.door is None:
            return None
        name = self.door.partition(":")[0].removeprefix("before_")
        # What a node has done goes out with the begin of the next.
        return "begin_step" if name in ("between_effect_and_record", "save_checkpoint") else name

    def payload(self, gates: str) -> dict[str, Any]:
        nodes: dict[str, Any] = {"first": {"manner": self.manner, "asks": self.asks}, "third": {"save": True}}
        if self.mid_step == "second":
            nodes["second"] = {"manner": "gate"}
        return {"gates": gates, **nodes, **({"stop_at": self.door} if self.door else {})}


KINDS = {
    "begins a step": Kind("before_begin_step:2"),
    "records a step": Kind("between_effect_and_record"),
    "fails a step": Kind("before_fail_step", word="fail"),
    "saves an artifact": Kind("before_save_artifact", word="save"),
    "saves a checkpoint": Kind("before_save_checkpoint:3"),
    "completes the run": Kind("before_finish", by_zombie=("first", "second"), mid_step="before_finish"),
    "fails the run": Kind("before_finish", word="fail"),
    "waits for somebody": Kind("before_wait", asks=1),
    "ends its node": Kind(),
    "ends its node, deaf to being cancelled": Kind(manner="deaf"),
    "raises in its node, deaf to being cancelled": Kind(manner="deaf", word="fail"),
    "saves an artifact in its node, deaf to being cancelled": Kind(manner="deaf", word="save"),
    "ends its node on a thread": Kind(workflow="zombie-on-thread"),
    "raises in its node on a thread": Kind(workflow="zombie-on-thread", word="fail"),
}


@dataclass
class Zombie:
    """A run that was taken from its worker: all that is stored of it before and after that woke."""

    kind: Kind
    run_id: str
    campaign_id: str
    before: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)


@dataclass
class Scene:
    """Two workers, of which one takes over from the other, and what the tests look with."""

    stack: Stack
    database: asyncpg.Connection
    client: RunEngineClient
    tenant: str
    arrivals: Arrivals
    history: History
    first: Child
    second: Child
    clock: Path
    zombies: dict[str, list[Zombie]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.somebody = Tenant(self.tenant, [self.client], self.history, Lag())

    def facts(self, rows: Any) -> Facts:
        return Facts(self.history.read(), rows)

    async def noted(self, found: Callable[[Note], bool]) -> Note:
        """The first note that is found, once it is there."""
        async with asyncio.timeout(SECONDS):
            # The event is in a file, to which another process writes.
            while not (notes := [note for note in self.history.read() if found(note)]):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        return notes[0]

    async def end_leases(self) -> None:
        """Time has passed: for the database, and for the first worker, which is stopped."""
        self.clock.write_text(str(float(self.clock.read_text() or 0) + 3600))
        await self.database.execute(
            "UPDATE runs SET lease_expires_at = '2000-01-01' WHERE tenant_id = $1 AND status = 'running'",
            self.tenant,
        )

    async def stored(self, run_id: str) -> list[str]:
        """All rows of a run and of its campaign, but for its lease, which its holder renews."""
        tables = ("run_steps", "run_events", "checkpoints", "checkpoint_writes", "run_values", "artifacts")
        rows = [
            *await self.database.fetch(
                "SELECT to_jsonb(runs) - 'lease_expires_at' FROM runs WHERE id = $1", run_id
            ),
            *await self.database.fetch(
                """SELECT to_jsonb(campaigns) FROM campaigns
                WHERE (tenant_id, id) = (SELECT tenant_id, campaign_id FROM runs WHERE id = $1)""",
                run_id,
            ),
            *await self.database.fetch(
                """SELECT to_jsonb(campaign_run_counts) FROM campaign_run_counts WHERE
                (tenant_id, campaign_id) = (SELECT tenant_id, campaign_id FROM runs WHERE id = $1)""",
                run_id,
            ),
        ]
        for table in tables:
            rows += await self.database.fetch(
                f"SELECT to_jsonb({table}) FROM {table} WHERE run_id = $1", run_id
            )
        return sorted(row[0] for row in rows)

    async def trigger(self, kind: Kind) -> Zombie:
        campaign_id = str(uuid.uuid4())
        await self.client.create_campaign(campaign_id)
        run = await self.client.trigger_run(
            kind.workflow, trigger_payload=kind.payload(self.arrivals.path), campaign_id=campaign_id
        )
        return Zombie(kind, run.id, campaign_id)

    async def until_held_by_the_first(self, zombie: Zombie) -> Arrival:
        """Where the first worker is with the run, about to do what the kind says."""
        arrival = await self.arrivals.at("first", zombie.run_id, self.first.pid)
        if zombie.kind.door is None:
            return arrival
        arrival.let_go(zombie.kind.word)
        return await self.arrivals.at(zombie.kind.door.partition(":")[0], zombie.run_id, self.first.pid)

    async def complete_by(self, worker: Child, zombies: list[Zombie]) -> None:
        """Lets that worker go on with everything until the runs have ended."""

        async def let_go() -> None:
            while True:
                there = await self.arrivals.until(lambda each: each.pid == worker.pid, seconds=3 * SECONDS)
                for arrival in there:
                    arrival.let_go()
                    await arrival.gone()

        letting_go = asyncio.create_task(let_go())
        try:
            for zombie in zombies:
                async with asyncio.timeout(SECONDS):
                    async for run in self.client.follow_run(zombie.run_id):
                        if run.waiting_for:
                            await self.somebody.resume(run)
                        zombie.told = [RunStatus.Name(run.status)]
        finally:
            letting_go.cancel()


@pytest.fixture(scope="module")
async def scene(stack: Stack, database_url: str) -> AsyncIterator[Scene]:
    database = await asyncpg.connect(database_url.replace("runengine_app@", "postgres@"))
    tenant = f"org_{uuid.uuid4().hex}"
    with tempfile.TemporaryDirectory(prefix="zombies-") as directory:
        history = History(Path(directory) / "history")
        async with (
            stack.client(stack.token(tenant)) as client,
            Arrivals() as arrivals,
        ):
            settings = {
                "WORKFLOWS": "tests.faults.graphs:ZOMBIES",
                "LEASE_SECONDS": str(LEASE_SECONDS),
                "WORKER_CONCURRENCY": "30",
                "FAULT_SOCKET": arrivals.path,
                "HISTORY": str(Path(directory) / "history"),
            }
            every = ",".join((*DOORS, "between_effect_and_record"))
            clock = Path(directory) / "clock"
            clock.touch()
            (first,), (second,) = await asyncio.gather(
                stack.start("worker", module=UNDER_TEST, FAULT_POINTS=every, CLOCK=str(clock), **settings),
                stack.start("worker", module=UNDER_TEST, FAULT_POINTS="before_finish", **settings),
            )
            try:
                yield Scene(stack, database, client, tenant, arrivals, history, first, second, clock)
            finally:
                first.kill()
                second.kill()
        history.close()
    await database.close()


@pytest.fixture(scope="module")
async def aftermath(scene: Scene) -> Scene:
    """What is left after a zombie of each kind has come and gone."""
    first, second = scene.first, scene.second
    os.kill(second.pid, signal.SIGSTOP)
    for name, kind in KINDS.items():
        scene.zombies[name] = [await scene.trigger(kind) for _ in range(RUNS_OF_A_KIND)]
    zombies = [zombie for several in scene.zombies.values() for zombie in several]
    held = [await scene.until_held_by_the_first(zombie) for zombie in zombies]

    os.kill(first.pid, signal.SIGSTOP)
    await scene.end_leases()
    os.kill(second.pid, signal.SIGCONT)
    for zombie in zombies:
        await scene.arrivals.at(zombie.kind.mid_step, zombie.run_id, second.pid)
    for zombie in zombies:
        zombie.before = await scene.stored(zombie.run_id)

    # Half of them find their word when they wake, and so are faster than the worker's own look at its clock.
    for arrival, zombie in list(zip(held, zombies, strict=True))[::2]:
        arrival.let_go(zombie.kind.word)
    os.kill(first.pid, signal.SIGCONT)
    for arrival, zombie in list(zip(held, zombies, strict=True))[1::2]:
        arrival.let_go(zombie.kind.word)
    for arrival, zombie in zip(held, zombies, strict=True):
        await arrival.gone()
        await scene.noted(
            lambda note, run_id=zombie.run_id: (  # type: ignore[misc]
                (note["what"], note["pid"], note.get("run")) == ("left", first.pid, run_id)
            )
        )
    for zombie in zombies:
        zombie.after = await scene.stored(zombie.run_id)

    # Its part is over; it might claim what a slow machine lets the second one lose.
    os.kill(first.pid, signal.SIGSTOP)
    await scene.complete_by(second, zombies)
    os.kill(first.pid, signal.SIGCONT)
    return scene


@pytest.fixture(params=KINDS)
def zombies(request: pytest.FixtureRequest, aftermath: Scene) -> list[Zombie]:
    return aftermath.zombies[request.param]


def test_a_zombie_changes_nothing(zombies: list[Zombie]) -> None:
    for zombie in zombies:
        assert zombie.before
        assert zombie.after == zombie.before


def test_a_zombie_has_tried_and_was_fenced_off(aftermath: Scene, zombies: list[Zombie]) -> None:
    for zombie in zombies:
        tried = {
            (note["name"], note["outcome"])
            for note in aftermath.history.read()
            if note["what"] == "write"
            and (note["run"], note["pid"]) == (zombie.run_id, aftermath.first.pid)
            and note["outcome"] != "applied"
        }
        if zombie.kind.write is not None:
            assert (zombie.kind.write, "fenced") in tried
        assert {outcome for _, outcome in tried} <= {"fenced", "unknown"}


async def test_the_successor_ends_the_run_and_moves_its_campaign(
    aftermath: Scene, zombies: list[Zombie]
) -> None:
    for zombie in zombies:
        assert zombie.told == ["RUN_STATUS_COMPLETED"]
        events = await aftermath.client.list_run_events(zombie.run_id)
        reasons = [event.reason for event in events]
        waits = ["WAITING", "RESUMED"] if zombie.kind.asks else []
        # On a machine that is slow enough, the second one loses it to itself.
        assert list(dict.fromkeys(reasons)) == ["TRIGGERED", "CLAIMED", "TAKEN_OVER", *waits, "COMPLETED"]
        assert reasons.count("WAITING") == reasons.count("RESUMED") == zombie.kind.asks
        pids = [int(event.actor.rpartition(":")[2]) for event in events[1:] if event.reason != "RESUMED"]
        assert pids == [aftermath.first.pid, *[aftermath.second.pid] * (len(pids) - 1)]
        campaign = await aftermath.client.get_campaign(zombie.campaign_id)
        assert campaign.latest_run_id == zombie.run_id

        steps = await aftermath.client.list_run_steps(zombie.run_id)
        # Each take-over repeats at most the one step that was under way, and none that was recorded.
        assert sum(step.attempt - 1 for step in steps) <= reasons.count("TAKEN_OVER")
        assert {step.attempt for step in steps if step.step_id in zombie.kind.by_zombie} <= {1}
        # What is in the bundle is what the steps handed on: of the zombie only what was recorded in time.
        bundle = await aftermath.client.download_artifact(campaign.bundle_url.rpartition("/")[2])
        markers = [marker.split(":")[:2] for marker in json.loads(bundle.data)]
        by = {True: str(aftermath.first.pid), False: str(aftermath.second.pid)}
        assert markers == [[name, by[name in zombie.kind.by_zombie]] for name in ("first", "second", "third")]
        saved = [artifact_id for step in steps for artifact_id in step.output_artifact_ids]
        assert saved == [campaign.bundle_url.rpartition("/")[2]]


async def test_every_invariant_holds(aftermath: Scene) -> None:
    rows = await read_rows(aftermath.database, [aftermath.tenant])
    assert len(rows.runs) >= len(KINDS) * RUNS_OF_A_KIND
    assert violations(aftermath.facts(rows)) == []


async def test_the_heartbeat_of_a_zombie_does_not_prolong_the_lease_of_its_successor(scene: Scene) -> None:
    first, second = scene.first, scene.second
    os.kill(second.pid, signal.SIGSTOP)
    zombie = await scene.trigger(Kind("before_heartbeat"))
    await scene.arrivals.at("first", zombie.run_id, first.pid)
    heartbeat = await scene.arrivals.at("before_heartbeat", zombie.run_id, first.pid)
    os.kill(first.pid, signal.SIGSTOP)
    await scene.end_leases()
    os.kill(second.pid, signal.SIGCONT)
    await scene.arrivals.at("first", zombie.run_id, second.pid)
    second.kill()
    await second.until_ended()

    async def lease() -> Any:
        return await scene.database.fetchval(f"SELECT {LEASE_ENDS} FROM runs WHERE id = $1", zombie.run_id)

    ends = await lease()
    assert ends is not None
    os.kill(first.pid, signal.SIGCONT)
    heartbeat.let_go()
    await heartbeat.gone()
    epoch = await scene.database.fetchval("SELECT epoch FROM runs WHERE id = $1", zombie.run_id)
    # Unless the first one has claimed it anew by then, which it may once that lease has ended.
    assert epoch == 3 or await lease() == ends
    await scene.end_leases()
    await scene.complete_by(first, [zombie])
    assert zombie.told == ["RUN_STATUS_COMPLETED"]
