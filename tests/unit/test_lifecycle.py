"""How a process learns that it has to stop."""

from __future__ import annotations

import asyncio
import signal

import pytest
from runengine_server.lifecycle import Lifetime

from tests.support.patience import SECONDS


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_is_heard_while_the_event_loop_does_not_move(number: signal.Signals) -> None:
    lifetime = Lifetime()
    with lifetime.watch():
        assert not lifetime.told.is_set()
        # Python executes its handler before this returns; nothing is awaited until then.
        signal.raise_signal(number)
        assert lifetime.told.is_set()
        assert not lifetime.stopping.is_set()
        async with asyncio.timeout(SECONDS):
            await lifetime.stopping.wait()
