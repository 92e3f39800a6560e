"""Graphs whose nodes do to their worker what none should: they leave processes and threads, and block."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from typing import Any, TypedDict

from tests.support.chains import chain_of
from tests.support.gates import pass_gate
from tests.support.patience import SECONDS

# Where the platform has it: what a child inherits is what is looked at here.
_forking = multiprocessing.get_context("fork")


class State(TypedDict, total=False):
    gates: str
    leave: str


def _pause(ready: Any) -> None:
    ready.send("here")
    signal.pause()


def _child() -> Any:
    hearing, saying = _forking.Pipe(duplex=False)
    child = _forking.Process(target=_pause, args=(saying,))
    child.start()
    assert hearing.poll(SECONDS)
    return child


async def terminate_child(state: State) -> State:
    """Fails unless the child dies of the signal that is meant for it."""
    child = _child()
    child.terminate()
    child.join(SECONDS)
    if child.exitcode != -signal.SIGTERM:
        child.kill()
        raise RuntimeError(f"The child ended with {child.exitcode}.")
    return {}


async def terminate_child_at_once(state: State) -> State:
    """As above, before the child has come to itself."""
    for _ in range(20):
        child = _forking.Process(target=signal.pause)
        child.start()
        assert child.pid is not None
        os.kill(child.pid, signal.SIGTERM)
        child.join(SECONDS)
        if child.exitcode != -signal.SIGTERM:
            child.kill()
            raise RuntimeError(f"The child ended with {child.exitcode}.")
    return {}


async def leave_child(state: State) -> State:
    """A child that lives on, whose id is the name of the gate."""
    child = _child()
    await pass_gate(state["gates"], str(child.pid))
    return {}


async def leave_thread(state: State) -> State:
    """A thread that is no daemon."""
    threading.Thread(target=time.sleep, args=(3600,), name="left", daemon=False).start()
    await pass_gate(state["gates"], "thread")
    return {}


async def wait(state: State) -> State:
    """Waits as an async node does."""
    await pass_gate(state["gates"], "waiting")
    return {}


async def block(state: State) -> State:
    """Blocks the event loop for as long as it likes, if it is told to. If told to be deaf, signals go to
    other threads, as the kernel likes, and do not interrupt it.
    """
    word = await pass_gate(state["gates"], "blocking")
    if word == "block, deaf":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    if word != "go":
        time.sleep(3600)  # noqa: ASYNC251
    return {}


WORKFLOWS = {
    "terminate-child": chain_of(State, first=terminate_child, second=terminate_child_at_once),
    "leave-child": chain_of(State, leave=leave_child),
    "leave-thread": chain_of(State, leave=leave_thread),
    "wait": chain_of(State, wait=wait),
    "block": chain_of(State, block=block),
}
