"""Other libraries and this one, as the one scenario plays them: what each does at each word."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
from abc import ABC, abstractmethod
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

import asyncpg
from runengine.v1.run_pb2 import RunStatus
from runengine_client import RunEngineClient
from runengine_server.processes.children import Child

from tests.support.gates import Gates
from tests.support.stack import ROOT, Stack

PYTHON = ROOT / ".venv-peers" / "bin" / "python"

# No step takes longer, unless something is wrong.
SECONDS = 30

# The words that open the gates, and what they stand for.
NOUNS = {"go": "success", "fail": "failure"}


class Silent(Exception):
    """An event that has to happen did not."""


@dataclass(frozen=True)
class State:
    """What the database says of the job; heartbeats and leases left out."""

    ends: tuple[str, ...]
    """Each terminal transition so far, in order."""

    rows: tuple[str, ...]
    """The job and its history, as text."""


@dataclass(frozen=True)
class Observed:
    """One variant after it was played."""

    zombie: str
    successor: str
    zombie_end: str
    """What a terminal transition to the zombie's outcome is called."""

    taken_over: State
    """While the successor is in the job, before the zombie goes on."""

    zombie_through: State
    """While the successor is in the job, after all that the zombie's worker had to say."""

    final: State
    complained: bool
    """Whether a worker logged that it could not record its outcome."""

    @property
    def held(self) -> bool:
        """Whether the zombie changed nothing, and the successor's outcome stands alone."""
        return (
            self.taken_over == self.zombie_through
            and len(self.final.ends) == 1
            and self.zombie_end not in self.final.ends
        )

    def describe(self) -> str:
        """In a cell of the table."""
        zombie, successor = NOUNS[self.zombie], NOUNS[self.successor]
        parts = []
        if self.zombie_through.ends:
            parts.append(f"the zombie's {zombie} ended the job while the successor was in it")
        elif self.taken_over != self.zombie_through:
            parts.append(f"the zombie's {zombie} changed the job while the successor was in it")
        else:
            parts.append(f"the zombie's {zombie} changed nothing")
        if self.final.ends == self.zombie_through.ends:
            trace = "logged an error" if self.complained else "logged nothing of it"
            parts.append(f"the successor's {successor} was not recorded, and its worker {trace}")
        else:
            parts.append(f"the successor's {successor} was recorded")
        parts.append(f"terminal transitions: {' → '.join(self.final.ends) or 'none'}")
        return "; ".join(parts)


class Project(ABC):
    """A library or engine on a database of its own, with one job."""

    name: str
    recovery: str
    ends: ClassVar[dict[str, str]]
    """What a terminal transition is called, by the word that opened the gate."""

    def __init__(self, admin_url: str, url: str) -> None:
        self._admin_url = admin_url
        self._url = url

    @classmethod
    @abstractmethod
    def installed_version(cls) -> str:
        """Of what is measured."""

    @abstractmethod
    async def prepare(self) -> None:
        """Whatever has to be there before a worker can start."""

    @abstractmethod
    async def start_worker(self) -> Any:
        """A worker, as a process with its `pid`."""

    @abstractmethod
    async def trigger(self, gates: Gates) -> None:
        """The one job, whose function passes a gate."""

    @abstractmethod
    async def until_zombie_is_through(self, worker: Any) -> None:
        """Returns once `worker`, whose execution has left its gate, has nothing more to write for the job."""

    @abstractmethod
    async def until_successor_is_through(self, worker: Any) -> None:
        """Likewise, with no other worker at the job."""

    @abstractmethod
    async def state(self) -> State:
        """What the database says now."""

    def complained(self) -> bool:
        """Whether a worker logged that it could not record its outcome."""
        return False

    @abstractmethod
    async def stop(self) -> None:
        """Ends whatever is still running."""


class Peer(Project):
    """A library whose worker program lies beside this file."""

    refusal: str
    """What its worker logs when it cannot record an outcome."""

    def __init__(self, admin_url: str, url: str) -> None:
        super().__init__(admin_url, url)
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed by stop)
        self._workers: list[subprocess.Popen[bytes]] = []
        self._connection: asyncpg.Connection | None = None

    @classmethod
    def installed_version(cls) -> str:
        ask = f"import importlib.metadata; print(importlib.metadata.version({cls.name!r}))"
        return subprocess.check_output([PYTHON, "-c", ask], text=True).strip()

    async def prepare(self) -> None:
        await self._end_of(self._start("setup"))
        self._connection = await asyncpg.connect(self._admin_url)

    async def start_worker(self) -> subprocess.Popen[bytes]:
        return self._start("work")

    async def trigger(self, gates: Gates) -> None:
        await self._end_of(self._start("defer", gates.path))

    async def until_zombie_is_through(self, worker: subprocess.Popen[bytes]) -> None:
        # SIGTERM lets the worker of either library finish and record the job in hand before it ends.
        worker.terminate()
        await self._end_of(worker)

    async def until_successor_is_through(self, worker: subprocess.Popen[bytes]) -> None:
        await self.until_zombie_is_through(worker)

    async def stop(self) -> None:
        for worker in self._workers:
            if worker.poll() is None:
                worker.kill()
                worker.wait()
        if self._connection is not None:
            await self._connection.close()
        self._log.close()

    def complained(self) -> bool:
        return self.refusal in self._logged()

    def _start(self, *arguments: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [str(PYTHON), "-m", f"tests.faults.peers.{self.name}_worker", self._url, *arguments],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stderr=self._log,
            start_new_session=True,
        )
        self._workers.append(process)
        return process

    async def _end_of(self, process: subprocess.Popen[bytes]) -> None:
        if code := await asyncio.to_thread(process.wait, SECONDS):
            raise Silent(f"a process of {self.name} ended with {code}:\n{self._logged()}")

    def _logged(self) -> str:
        # Not read(): the workers write at the position that it would move.
        return os.pread(self._log.fileno(), 1 << 20, 0).decode(errors="replace")

    async def _lines(self, sql: str) -> tuple[str, ...]:
        assert self._connection is not None
        return tuple(str(row[0]) for row in await self._connection.fetch(sql))


class Procrastinate(Peer):
    name = "procrastinate"
    recovery = (
        "the periodic task of its documentation, every second: `get_stalled_jobs()` by heartbeat (every "
        "0.5 s, stalled after 1.5 s), then `retry_job()`"
    )
    refusal = "Job was not found or not in"
    ends: ClassVar = {"go": "succeeded", "fail": "failed"}

    async def state(self) -> State:
        job = "SELECT id FROM procrastinate_jobs WHERE task_name = 'held'"
        return State(
            await self._lines(
                f"""SELECT type FROM procrastinate_events WHERE job_id = ({job})
                AND type IN ('succeeded', 'failed', 'cancelled', 'aborted') ORDER BY id"""
            ),
            await self._lines(
                f"""SELECT concat_ws(' ', status, attempts, worker_id) FROM procrastinate_jobs
                WHERE id = ({job})
                UNION ALL (SELECT type::text FROM procrastinate_events WHERE job_id = ({job}) ORDER BY id)"""
            ),
        )


class PgQueuer(Peer):
    name = "pgqueuer"
    recovery = (
        "built in: a worker takes over a job whose heartbeat is older than `heartbeat_timeout` (1.5 s), with "
        "`dequeue_timeout` 1 s"
    )
    refusal = "Flush failed"
    ends: ClassVar = {"go": "successful", "fail": "exception"}

    async def state(self) -> State:
        return State(
            await self._lines(
                """SELECT status FROM pgqueuer_log
                WHERE status IN ('successful', 'exception', 'canceled', 'deleted', 'failed') ORDER BY id"""
            ),
            await self._lines(
                """SELECT concat_ws(' ', status, attempts, queue_manager_id) FROM pgqueuer
                UNION ALL (SELECT status::text FROM pgqueuer_log ORDER BY id)"""
            ),
        )


class RunEngine(Project):
    name = "runengine"
    recovery = (
        "built in: a worker takes over a run whose lease has ended (`LEASE_SECONDS=1`), with "
        "`WORKER_CONCURRENCY=1`"
    )
    ends: ClassVar = {"go": "completed", "fail": "failed"}

    @classmethod
    def installed_version(cls) -> str:
        return version("runengine")

    async def prepare(self) -> None:
        self._state_dir = Path(tempfile.mkdtemp(prefix="zombie-state-"))
        self._stack = Stack(self._url, self._state_dir)
        self._client = RunEngineClient(self._stack.grpc_address, self._stack.token(f"org_{uuid4().hex}"))
        await self._stack.start("serve")

    async def start_worker(self) -> Child:
        (worker,) = await self._stack.start(
            "worker", WORKFLOWS="tests.support.graphs:WORKFLOWS", LEASE_SECONDS="1", WORKER_CONCURRENCY="1"
        )
        return worker

    async def trigger(self, gates: Gates) -> None:
        self._run_id = (await self._client.trigger_run("gated", trigger_payload={"gates": gates.path})).id

    async def until_zombie_is_through(self, worker: Child) -> None:
        # SIGTERM would stop the run and hand it back. A worker of concurrency 1 takes another run only once
        # it is through with the one in hand, and the successor has its hands full.
        async with Gates() as gates:
            await self._client.trigger_run("last-held", trigger_payload={"gates": gates.path})
            (await gates.next()).open()

    async def until_successor_is_through(self, worker: Child) -> None:
        await self._client.wait(self._run_id, timeout_seconds=SECONDS)

    async def state(self) -> State:
        events = await self._client.list_run_events(self._run_id)
        steps = await self._client.list_run_steps(self._run_id)
        words = [RunStatus.Name(event.to_status).removeprefix("RUN_STATUS_").lower() for event in events]
        ended = tuple(word for word in words if word in ("completed", "failed", "cancelled"))
        rows = [await self._client.get_run(self._run_id), *events, *steps]
        return State(ended, tuple(str(row) for row in rows))

    async def stop(self) -> None:
        await self._client.close()
        await self._stack.stop()
        shutil.rmtree(self._state_dir)
