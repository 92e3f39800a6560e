"""A process of the product under test: `python -m tests.faults.process worker|serve`.

It is the real command, with no test hook in it: what is added here wraps its methods from outside.

`RUNENGINE_FAULT_POINTS` arms places at which an execution arrives at the socket of
`RUNENGINE_FAULT_SOCKET` and waits for a word, so that the test kills or stops the process exactly there.
`NAME:3` means the third execution that gets there, once; `NAME` each execution of a run whose
payload asks for it (`"stop_at": "NAME"`, or `"NAME:2"` for the second time that this run gets there).
With `RUNENGINE_CLOCK` a worker's own clock is ahead by as many seconds as that file says.
With `RUNENGINE_HISTORY` every claim and every fenced write goes to the history, with what came of it.
With `RUNENGINE_REPORTS` it says what it has, as tests/faults/reporting.py.
With `RUNENGINE_MUTANT` one guard of the product is taken out. With `RUNENGINE_PATIENT` calls that wait for
the database are not given up after ten seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from google.protobuf.struct_pb2 import Struct
from runengine_server.database.functions import TenantFunction
from runengine_server.domain.errors import Fenced
from runengine_server.domain.run import ClaimedRun, NewRun
from runengine_server.domain.struct import to_dict

from tests.faults.arrivals import arrive
from tests.faults.history import ours
from tests.faults.patient import be_patient
from tests.faults.reporting import REPORTS, answer_signals

WORKER_POINTS = (
    "before_first_step",
    "between_effect_and_record",
    "after_record",
    "inside_finish",
    "after_finish",
    "before_wait",
    "inside_wait",
    "after_wait",
    "after_resume",
)
SERVER_POINTS = ("server_before_commit", "server_after_commit")

# Each fenced write of a worker; at `before_NAME` it has been decided and not been sent.
WRITES = (
    "begin_step",
    "fail_step",
    "save_writes",
    "save_checkpoint",
    "save_artifact",
    "save_cached",
    "write_items",
    "begin_in_thread",
    "prune_checkpoints",
    "drop_checkpoints",
    "wait",
)
DOORS = (*(f"before_{name}" for name in WRITES), "before_finish", "before_heartbeat")


_INSIDE = {"end_run": "inside_finish", "wait_run": "inside_wait"}


class _Points:
    def __init__(self) -> None:
        armed = (each.partition(":") for each in os.environ.get("RUNENGINE_FAULT_POINTS", "").split(","))
        self._armed = {name: int(number or 0) for name, _, number in armed if name}
        self._path = os.environ.get("RUNENGINE_FAULT_SOCKET", "")
        self._count: Counter[tuple[str, str]] = Counter()

    @property
    def are_armed(self) -> bool:
        """Whether there is one at which somebody may stop."""
        return bool(self._armed)

    @asynccontextmanager
    async def reached(self, name: str, run_id: str, payload: Struct | None = None) -> AsyncIterator[None]:
        """Waits here if it is armed; the test is told when the block has ended."""
        if not self._is_due(name, run_id, payload):
            yield
            return
        async with arrive(self._path, name, run_id):
            yield

    def is_zombie_to_be(self, run: ClaimedRun) -> bool:
        """Whether the payload asks for a place that is armed here."""
        return str(to_dict(run.trigger_payload).get("stop_at", "")).partition(":")[0] in self._armed

    def _is_due(self, name: str, run_id: str, payload: Struct | None) -> bool:
        if name not in self._armed:
            return False
        if number := self._armed[name]:
            self._count[name, ""] += 1
            return self._count[name, ""] == number
        self._count[name, run_id] += 1
        place, _, number_of_run = str(to_dict(payload).get("stop_at", "")).partition(":")
        return place == name and self._count[name, run_id] == int(number_of_run or 1)


def _wrap(owner: Any, name: str, wrapper: Callable[[Any], Any]) -> None:
    real = getattr(owner, name)
    setattr(owner, name, functools.wraps(real)(wrapper(real)))


def _install_worker(points: _Points) -> None:
    from runengine_server.repositories.held_run_repository import HeldRunRepository
    from runengine_server.repositories.queue_repository import LeaseRenewer, QueueRepository
    from runengine_server.worker.graph import execution as executions
    from runengine_server.worker.processor import LangGraphRunProcessor
    from runengine_server.worker.worker import Worker

    if points.are_armed:
        # What is deferred goes out with the next statement, and not by the clock: so it is known which one
        # that is at which an execution is stopped.
        executions.FLUSH_SECONDS = 3600
    held: set[tuple[str, int]] = set()
    begun: set[tuple[str, Any]] = set()
    unrecorded: set[str] = set()

    def write(name: str) -> Callable[[Any], Any]:
        def wrapper(real: Any) -> Any:
            async def call(self: Any, *arguments: Any, **named: Any) -> Any:
                run: ClaimedRun = self.run
                run_id, payload = str(run.id), run.trigger_payload
                # LangGraph's own task that takes the input is no step, and is never begun.
                completes = name == "save_writes" and (run_id, arguments[5]) in begun
                defer = named.get("defer", False)
                if name == "begin_step":
                    begun.add((run_id, arguments[0]))
                    if (run_id, run.epoch) not in held:
                        held.add((run_id, run.epoch))
                        async with points.reached("before_first_step", run_id, payload):
                            pass
                if completes:
                    async with points.reached("between_effect_and_record", run_id, payload):
                        pass
                # What is deferred is sent, and so fenced, with what comes next.
                noted = contextlib.nullcontext() if defer else _noted(name, run)
                async with points.reached(f"before_{name}", run_id, payload), noted:
                    answer = await real(self, *arguments, **named)
                if completes and defer:
                    unrecorded.add(run_id)
                elif completes or (name == "begin_step" and run_id in unrecorded):
                    unrecorded.discard(run_id)
                    async with points.reached("after_record", run_id, payload):
                        pass
                if name in ("begin_step", "wait"):
                    async with points.reached(f"after_{name}", run_id, payload):
                        pass
                return answer

            return call

        return wrapper

    for name in WRITES:
        _wrap(HeldRunRepository, name, write(name))

    def end(real: Any) -> Any:
        @asynccontextmanager
        async def call(self: Any) -> AsyncIterator[Any]:
            run: ClaimedRun = self.run
            run_id, payload = str(run.id), run.trigger_payload
            door = points.reached("before_finish", run_id, payload)
            async with door, _noted("finish", run), real(self) as ending:
                yield ending
            async with points.reached("after_finish", run_id, payload):
                pass

        return call

    _wrap(HeldRunRepository, "end", end)

    def statement(real: Any) -> Any:
        async def call(self: Any, function: TenantFunction, *arguments: Any) -> Any:
            if (place := _INSIDE.get(function.name)) is None:
                return await real(self, function, *arguments)
            # It is one statement: PostgreSQL has it, and this process may not hear what becomes of it.
            ending = asyncio.ensure_future(real(self, function, *arguments))
            async with points.reached(place, str(self.run.id), self.run.trigger_payload):
                return await ending

        return call

    _wrap(HeldRunRepository, "call_fenced", statement)

    def completion(real: Any) -> Any:
        async def call(self: Any, *arguments: Any) -> None:
            ending = asyncio.ensure_future(real(self, *arguments))
            async with points.reached("inside_finish", str(self.run.id), self.run.trigger_payload):
                await ending

        return call

    _wrap(HeldRunRepository, "complete", completion)

    def process(real: Any) -> Any:
        async def call(self: Any, run: ClaimedRun, *more: Any) -> Any:
            try:
                if run.resume_values.fields:
                    async with points.reached("after_resume", str(run.id), run.trigger_payload):
                        pass
                return await real(self, run, *more)
            finally:
                ours.note("left", run=str(run.id), epoch=run.epoch)

        return call

    _wrap(LangGraphRunProcessor, "process", process)

    def lose(real: Any) -> Any:
        def call(self: Any, lost: ClaimedRun) -> None:
            # A process may be stopped after the last time it looked at its clock and before its statement
            # is sent, and then nothing but the fence is left. So these runs' worker never looks.
            if not points.is_zombie_to_be(lost):
                real(self, lost)

        return call

    _wrap(Worker, "on_lost", lose)

    def claim(real: Any) -> Any:
        async def call(self: Any, *arguments: Any, **named: Any) -> Any:
            runs = await real(self, *arguments, **named)
            for run in runs:
                ours.note("claimed", run=str(run.id), epoch=run.epoch, attempt=run.attempt)
            return runs

        return call

    for name in ("claim_queued", "claim_expired"):
        _wrap(QueueRepository, name, claim)

    def claim_one(real: Any) -> Any:
        async def call(self: Any, *arguments: Any, **named: Any) -> Any:
            run, was_held = await real(self, *arguments, **named)
            if run is not None:
                ours.note("claimed", run=str(run.id), epoch=run.epoch, attempt=run.attempt)
            return run, was_held

        return call

    _wrap(QueueRepository, "claim_handed_over", claim_one)

    def heartbeat(real: Any) -> Any:
        async def call(self: Any, held: Sequence[ClaimedRun], *arguments: Any, **named: Any) -> Any:
            async with contextlib.AsyncExitStack() as doors:
                for run in held:
                    door = points.reached("before_heartbeat", str(run.id), run.trigger_payload)
                    await doors.enter_async_context(door)
                return await real(self, held, *arguments, **named)

        return call

    _wrap(LeaseRenewer, "heartbeat", heartbeat)


@asynccontextmanager
async def _noted(name: str, run: ClaimedRun) -> AsyncIterator[None]:
    """Notes a fenced write: when it began, and what came of it. Unknown: perhaps applied."""
    began = ours.now()
    outcome = "unknown"
    try:
        yield
        outcome = "applied"
    except Fenced:
        outcome = "fenced"
        raise
    finally:
        ours.note("write", run=str(run.id), epoch=run.epoch, name=name, began=began, outcome=outcome)


def _install_server(points: _Points) -> None:
    from runengine_server.database.notifier import Notifier
    from runengine_server.rpc import run_servicer

    def trigger_run(real: Any) -> Any:
        # It is one statement, which is a transaction of its own.
        async def call(runs: Any, new: NewRun, *arguments: Any, **named: Any) -> Any:
            async with points.reached("server_before_commit", str(new.id)):
                pass
            result = await real(runs, new, *arguments, **named)
            async with points.reached("server_after_commit", str(new.id)):
                pass
            return result

        return call

    _wrap(run_servicer, "trigger_run", trigger_run)

    def send(real: Any) -> Any:
        async def call(self: Any, batch: Any) -> Any:
            async with points.reached("server_before_notification", "-"):
                pass
            return await real(self, batch)

        return call

    _wrap(Notifier, "send", send)


class Clock:
    """Stands for the module `time` where a worker looks at its leases."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def monotonic(self) -> float:
        with open(self._path) as file:
            return time.monotonic() + float(file.read() or 0)


def _follow_clock(path: str) -> None:
    from runengine_server.worker import heartbeat, worker

    for module in (heartbeat, worker):
        vars(module)["time"] = Clock(path)


def main() -> None:
    """The command of the product, once its process is prepared."""
    import sys

    from runengine_server.__main__ import main as command

    # First, so that what is noted and stopped is the guarded or unguarded method as the product has it.
    if mutant := os.environ.get("RUNENGINE_MUTANT"):
        importlib.import_module("tests.faults.mutants").apply(mutant)
    if "RUNENGINE_PATIENT" in os.environ:
        be_patient()
    if REPORTS in os.environ:
        answer_signals()
    points = _Points()
    if "worker" in sys.argv:
        _install_worker(points)
        if clock := os.environ.get("RUNENGINE_CLOCK"):
            _follow_clock(clock)
    if "serve" in sys.argv:
        _install_server(points)
    command()


if __name__ == "__main__":
    main()
