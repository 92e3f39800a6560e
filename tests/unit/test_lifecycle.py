"""How a process learns that it has to stop."""

from __future__ import annotations

import asyncio
import signal

import pytest
from runengine_server.lifecycle import ProcessLifecycle

from tests.support.patience import SECONDS


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_is_heard_while_the_event_loop_does_not_move(number: signal.Signals) -> None:
    lifecycle = ProcessLifecycle()
    with lifecycle.handle_signals():
        assert not lifecycle.stop_requested.is_set()
        # Python executes its handler before this returns; nothing is awaited until then.
        signal.raise_signal(number)
        assert lifecycle.stop_requested.is_set()
        assert not lifecycle.stopping.is_set()
        async with asyncio.timeout(SECONDS):
            await lifecycle.stopping.wait()
