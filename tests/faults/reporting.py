"""A process of the product that says what it has: `python -m tests.faults.reporting serve|gateway|worker`.

It is the real command. On SIGUSR1 it sends one datagram to the socket of
`RUNENGINE_REPORTS`, with what cannot be seen from outside: its asyncio tasks, its Python threads, its
connections that LISTEN, and its channels and calls of gRPC. On SIGUSR2 it collects its garbage first, so
that what only a cycle keeps is gone, and has complained if it was not closed, and gives free memory back.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import json
import os
import signal
import socket
import sys
import threading
import traceback
import warnings
from collections import Counter
from types import FrameType
from typing import Any

import asyncpg

from tests.faults.patient import be_patient

REPORTS = "RUNENGINE_REPORTS"

# A client's channel and call, and a server's call, as grpcio 1.85 names them.
_OF_GRPC = ("AioChannel", "_AioCall", "RPCState")


def main() -> None:
    """The command of the product, once its process can be asked."""
    from runengine_server.__main__ import main as command

    if mutant := os.environ.get("RUNENGINE_MUTANT"):
        from tests.faults import mutants

        mutants.apply(mutant)
    be_patient()
    answer_signals()
    command()


def answer_signals() -> None:
    """From now on this process says what it has when it is asked."""
    from runengine_server import logs

    warnings.simplefilter("always", ResourceWarning)
    path = os.environ[REPORTS]

    def report(number: int, frame: FrameType | None) -> None:
        # Whatever is raised here would be raised in the middle of what the product is doing.
        try:
            if number == signal.SIGUSR2:
                gc.collect()
                _give_back()
            words = json.dumps({"pid": os.getpid(), **own()}).encode()
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to:
                to.sendto(words, path)
        except Exception:
            traceback.print_exc()

    log = logs.log_unhandled

    def log_in_full(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        # The product's log does not quote asyncio, whose words may have a payload in them.
        sys.stderr.write(f"asyncio: {context['message']} {context.get('task', context.get('future'))!r}\n")
        log(loop, context)

    logs.log_unhandled = log_in_full
    # What is frozen, the event loop with it, gc.get_objects() does not find.
    gc.freeze = lambda: None
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, report)


def _give_back() -> None:
    # What is free, and is kept by the C library to be used again, is no memory that is held.
    with contextlib.suppress(OSError, AttributeError):  # a C library without it
        ctypes.CDLL(None).malloc_trim(0)


def own() -> dict[str, dict[str, int]]:
    """Each figure by its kinds."""
    # A worker has two event loops: the second is that of its heartbeat.
    everything = gc.get_objects()
    # By its type: isinstance() would ask a proxy for the class of what it stands for, which may be gone.
    loops: list[Any] = [each for each in everything if issubclass(type(each), asyncio.AbstractEventLoop)]
    tasks = [task for loop in loops if not loop.is_closed() for task in asyncio.all_tasks(loop)]
    lines: list[Any] = [
        each for each in everything if type(each) is asyncpg.Connection and not each.is_closed()
    ]
    return {
        "asyncio tasks": Counter(_name(task.get_coro()) for task in tasks),
        "Python threads": Counter(thread.name for thread in threading.enumerate()),
        "LISTENs": Counter(channel for line in lines for channel in line._listeners),
        "gRPC": Counter(name for each in everything if (name := type(each).__name__) in _OF_GRPC),
    }


def _name(coroutine: Any) -> str:
    return str(getattr(coroutine, "__qualname__", coroutine))


if __name__ == "__main__":
    main()
