"""What a trigger takes of PostgreSQL alone, and in a batch: `python -m tests.bench.trigger_batches`.

One connection, in rounds of 192 triggers, each way in turn, into one campaign; with a commit that waits for
the disk, and without.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from statistics import median
from time import perf_counter
from typing import Any
from uuid import uuid4

import asyncpg
import uuid_utils.compat
from runengine.v1.run_service_pb2 import TriggerRunRequest
from runengine_server.database.functions import each_call
from runengine_server.domain.encoded_run import encode_input
from runengine_server.domain.run import NewRun

from tests.support.stack import open_directory, own_postgres

_TRIGGERS, _BATCH, _ROUNDS = 192, 16, 25
_TRIGGER = each_call("trigger_run", "trigger_runs_of_tenants")
_NO_KEY = (None, None, None)


async def _measure(connection: asyncpg.Connection[asyncpg.Record]) -> dict[str, float]:
    """The median µs of a trigger, for each way."""
    campaign_id = uuid4()
    alone, together = [await connection.prepare(each) for each in (_TRIGGER.one.call, _TRIGGER.many)]

    def call() -> tuple[Any, ...]:
        new = NewRun(uuid_utils.compat.uuid7(), TriggerRunRequest(workflow_name="measured"), campaign_id)
        identity = "org_measured", new.id, "measured", encode_input(new), campaign_id
        return *identity, 0, "user_measured", "0" * 32, *_NO_KEY, False

    async def one_by_one() -> None:
        for _ in range(_TRIGGERS):
            await alone.fetch(*call())

    async def in_batches() -> None:
        for _ in range(_TRIGGERS // _BATCH):
            calls = [call() for _ in range(_BATCH)]
            await together.fetch(*_TRIGGER.statement(calls)[1])

    ways: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
        "alone": one_by_one,
        f"in a batch of {_BATCH}": in_batches,
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(_ROUNDS):
        for name, way in ways.items():
            begin = perf_counter()
            await way()
            taken[name].append((perf_counter() - begin) / _TRIGGERS * 1e6)
    return {name: median(times) for name, times in taken.items()}


async def main() -> None:
    """Prints the µs of a trigger."""
    with open_directory() as directory:
        async with own_postgres(directory) as (_, url):
            owner = await asyncpg.connect(url.replace("runengine_app@", "postgres@"))
            await owner.execute("INSERT INTO public.workflows (name) VALUES ('measured')")
            await owner.close()
            connection = await asyncpg.connect(url)
            for waits in ("on", "off"):
                await connection.execute(f"SET synchronous_commit = {waits}")
                for name, taken in (await _measure(connection)).items():
                    print(f"synchronous_commit {waits}: {taken:.0f} µs a trigger {name}")
            await connection.close()


if __name__ == "__main__":
    asyncio.run(main())
