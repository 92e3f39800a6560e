"""How a process of ours learns that it has to stop, and says that it is ready."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import structlog

_log = structlog.get_logger()


class Lifetime:
    """When this process has to stop, and how it tells `up`, if that started it, that it is ready.

    `RUNENGINE_PARENT_FD` is one end of a socket pair: "ready" is written to it, and its end of file
    means that the parent is gone, however it died.

    `told` is set by a signal, as `stopping` is, but also while the event loop is blocked: for other threads.
    """

    def __init__(self) -> None:
        self.stopping = asyncio.Event()
        self.told = threading.Event()
        given = os.environ.get("RUNENGINE_PARENT_FD")
        self._parent = socket.socket(fileno=int(given)) if given else None

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Sets `stopping` on SIGINT, SIGTERM and the parent's death, while the block runs."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.stopping.set)
            signal.signal(number, self._and_tell(signal.getsignal(number)))
        if self._parent is not None:
            loop.add_reader(self._parent, self._orphaned)
        try:
            yield
        finally:
            if self._parent is not None:
                loop.remove_reader(self._parent)
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    def _and_tell(self, of_loop: Any) -> Callable[[int, FrameType | None], None]:
        """What Python executes in the midst of whatever blocks the event loop; `of_loop` is its own."""

        def tell(number: int, frame: FrameType | None) -> None:
            self.told.set()
            of_loop(number, frame)

        return tell

    def _orphaned(self) -> None:
        assert self._parent is not None
        asyncio.get_running_loop().remove_reader(self._parent)
        self.stopping.set()

    def close(self) -> None:
        """Lets go of the parent, in a forked child: that the worker lives on is not for it to say."""
        if self._parent is not None:
            self._parent.close()

    def ready(self, event: str, **details: object) -> None:
        """Says that the process does its work now: to `up`, or else in the log."""
        # What has been made so far stays. The collector need not look at it again: 300,000 objects in a
        # worker, 4 % of its time.
        gc.collect()
        gc.freeze()
        if self._parent is not None:
            self._parent.sendall(b"ready")
        else:
            _log.info(event, **details)


def let_go_of_the_rest() -> list[str]:
    """Sends SIGTERM to the processes that multiprocessing has started here. Returns the names of these, and
    of the threads that Python would wait for, too, before it ends.
    """
    threads = [each.name for each in threading.enumerate() if not each.daemon]
    threads.remove(threading.main_thread().name)
    children = multiprocessing.active_children()
    for each in children:
        each.terminate()
    return threads + [each.name for each in children]
