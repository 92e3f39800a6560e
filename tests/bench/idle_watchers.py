"""`python -m tests.bench.idle_watchers`: what a thousand streams take that wait.

Three times a thousand streams of WatchRuns are opened on one `serve`, wait for ten seconds, and go. Prints
the memory of the process (PSS) before, with them and after, its CPU time while they wait, and its
connections.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import asyncpg
import grpc
from runengine.v1.run_service_pb2_grpc import RunServiceStub
from runengine.v1.watch_runs_pb2 import WatchRunsRequest
from runengine_server.auth import development

from tests.support.stack import Stack, open_directory, own_postgres

_WATCHERS, _CHANNELS, _SECONDS = 1000, 10, 10.0
_TICKS = 100  # a second, of /proc/PID/stat


def _pss(pid: int) -> float:
    """KiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(float(line.split()[1]) for line in lines if line.startswith("Pss:"))


def _cpu(pid: int) -> float:
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / _TICKS


async def _connections(url: str) -> int:
    connection = await asyncpg.connect(url.replace("runengine_app@", "postgres@"))
    count = await connection.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'runengine serve%'"
    )
    await connection.close()
    return int(count)


async def main() -> None:
    """Measures, and prints."""
    with open_directory() as directory:
        async with own_postgres(directory) as (_, url):
            stack = Stack(url, directory)
            (serve,) = await stack.start("serve")
            own = [("grpc.use_local_subchannel_pool", 1)]
            channels = [grpc.aio.insecure_channel(stack.grpc_address, own) for _ in range(_CHANNELS)]

            async def watch(number: int) -> Any:
                token = development.sign(directory, f"org_{number // 128}", f"user_{number // 16}", 3600)
                call = RunServiceStub(channels[number % _CHANNELS]).WatchRuns(
                    WatchRunsRequest(), metadata=(("authorization", f"Bearer {token}"),)
                )
                assert await call.read() is not grpc.aio.EOF
                return call

            print(f"connections without watchers: {await _connections(url)}")
            for _ in range(3):
                before = _pss(serve.pid)
                calls = await asyncio.gather(*(watch(number) for number in range(_WATCHERS)))
                await asyncio.sleep(2)
                held, begin = _pss(serve.pid), _cpu(serve.pid)
                await asyncio.sleep(_SECONDS)
                busy = (_cpu(serve.pid) - begin) / _SECONDS
                connections = await _connections(url)
                for call in calls:
                    call.cancel()
                await asyncio.sleep(5)
                print(
                    f"{before / 1024:.0f} MiB, with {_WATCHERS} {held / 1024:.0f} MiB, "
                    f"{(held - before) / _WATCHERS:.1f} KiB each, {busy:.1%} of a core, "
                    f"{connections} connections; after {_pss(serve.pid) / 1024:.0f} MiB"
                )
            for channel in channels:
                await channel.close()
            await stack.stop()


if __name__ == "__main__":
    asyncio.run(main())
