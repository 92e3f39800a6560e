"""How often something is done that comes without end."""

from __future__ import annotations

import asyncio

from runengine_server.database.pace import Pace


async def test_a_pace_lets_through_what_may_come_at_once_and_then_no_more() -> None:
    pace = Pace(burst=3, per_second=1e-9)
    for _ in range(3):
        await pace.wait()
    fourth = asyncio.create_task(pace.wait())
    await asyncio.sleep(0)
    assert not fourth.done()
    fourth.cancel()


async def test_a_pace_goes_on() -> None:
    pace = Pace(burst=1, per_second=1e9)
    for _ in range(100):
        await pace.wait()
