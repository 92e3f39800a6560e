"""How a process learns that it has to stop, and announces that it is ready."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import structlog

from runengine_server.garbage import keep_what_is_there

_log = structlog.get_logger()


class ProcessLifecycle:
    """When this process has to stop, and how it announces that it is ready.

    `stopping` is set in the event loop. `stop_requested` is set by the same signals, even while the event
    loop is blocked: it is for other threads.

    `RUNENGINE_PARENT_FD`, which a process that starts others sets for them, is one end of a socket pair:
    "ready" is written to it, and its end of file means that the parent has ended, however it died.
    """

    def __init__(self) -> None:
        self.stopping = asyncio.Event()
        self.stop_requested = threading.Event()
        descriptor = os.environ.get("RUNENGINE_PARENT_FD")
        self._parent = socket.socket(fileno=int(descriptor)) if descriptor else None

    @contextlib.contextmanager
    def handle_signals(self) -> Iterator[None]:
        """Sets `stopping` on SIGINT, SIGTERM and the parent's end, while the block runs."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.stopping.set)
            signal.signal(number, self.also_outside_the_loop(signal.getsignal(number)))
        if self._parent is not None:
            loop.add_reader(self._parent, self._parent_ended)
        try:
            yield
        finally:
            if self._parent is not None:
                loop.remove_reader(self._parent)
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    def also_outside_the_loop(self, handler_of_loop: Any) -> Callable[[int, FrameType | None], None]:
        """A handler that Python executes at once, also in the middle of code that blocks the event loop."""

        def handle(number: int, frame: FrameType | None) -> None:
            self.stop_requested.set()
            handler_of_loop(number, frame)

        return handle

    def _parent_ended(self) -> None:
        assert self._parent is not None
        asyncio.get_running_loop().remove_reader(self._parent)
        self.stopping.set()

    def close_parent_socket(self) -> None:
        """Closes the socket to the parent, in a forked child: an open copy would hide this process's end."""
        if self._parent is not None:
            self._parent.close()

    def announce_ready(self, event: str, **details: object) -> None:
        """Says that the process does its work now: to the parent, or else in the log."""
        keep_what_is_there()
        if self._parent is not None:
            self._parent.sendall(b"ready")
        else:
            _log.info(event, **details)


def terminate_leftovers() -> list[str]:
    """Sends SIGTERM to the processes that multiprocessing has started here. Returns their names, and those of
    the threads for which Python would wait before it ends.
    """
    threads = [each.name for each in threading.enumerate() if not each.daemon]
    threads.remove(threading.main_thread().name)
    children = multiprocessing.active_children()
    for each in children:
        each.terminate()
    return threads + [each.name for each in children]
