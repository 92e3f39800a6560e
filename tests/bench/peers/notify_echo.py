"""Answers each NOTIFY on `ping` with one on `pong`. Argument: the URL of the database."""

from __future__ import annotations

import asyncio
import sys

import asyncpg
import uvloop


async def main(url: str) -> None:
    heard = asyncio.Event()
    connection = await asyncpg.connect(url)
    await connection.add_listener("ping", lambda *_: heard.set())
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while await heard.wait():
        heard.clear()
        await connection.execute("NOTIFY pong")


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(sys.argv[1]))
