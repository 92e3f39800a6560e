"""Where log lines go: to stderr, by a thread of its own, so that nobody waits for who reads them."""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections import deque
from collections.abc import Callable

# What may wait for stderr, and of a line what is kept.
_MAX_WAITING_BYTES = 1024 * 1024
_MAX_LINE_BYTES = 64 * 1024

# How long the end of the process may wait for stderr.
_FLUSH_SECONDS = 1.0

# How long a stderr that refuses is left alone: its disk is full, or its reader gone.
_PAUSE_SECONDS = 1.0


class LogOutput:
    """Lines on a file descriptor. `write` returns at once and never raises, whatever becomes of the line.

    A line that finds too many waiting, or that the descriptor refuses, is dropped; once lines can be
    written again, one in the words of `dropped` says how many were.
    """

    def __init__(self, descriptor: int, dropped: Callable[[int], bytes]) -> None:
        self._descriptor = descriptor
        self._dropped = dropped
        self._reset()
        atexit.register(self.flush)
        # A forked child has none of its parent's threads, and what waits is the parent's to write.
        os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._lost = 0
        self._is_writing = self._is_refused = self._is_cut = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Starts the thread, which else the first line does."""
        with self._changed:
            self._has_thread()

    def write(self, line: bytes) -> None:
        """Takes a line, without its end."""
        line = line[:_MAX_LINE_BYTES] + b"\n"
        with self._changed:
            if self._waiting_bytes + len(line) > _MAX_WAITING_BYTES or not self._has_thread():
                self._lost += 1
                return
            self._waiting.append(line)
            self._waiting_bytes += len(line)
            self._changed.notify_all()

    def flush(self) -> None:
        """Returns once all lines are written, after a second at most: for a process that ends."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._is_refused or not (self._waiting or self._is_writing), _FLUSH_SECONDS
            )

    def _has_thread(self) -> bool:
        if self._thread is None:
            thread = threading.Thread(target=self._write_for_ever, name="log", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # there can be no more threads, or the interpreter ends
                return False
            self._thread = thread
        return True

    def _write_for_ever(self) -> None:
        changed = self._changed
        while True:
            with changed:
                self._is_writing = False
                changed.notify_all()
                changed.wait_for(lambda: self._waiting or self._lost)
                self._is_writing = True
                lost, line = self._lost, b""
                if self._waiting:
                    line = self._waiting.popleft()
                    self._waiting_bytes -= len(line)
            if self._put((self._dropped(lost) + b"\n" if lost else b"") + line):
                with changed:
                    self._lost -= lost
                    self._is_refused = False
                continue
            with changed:
                self._lost += bool(line)
                self._is_refused = True
                changed.notify_all()
            time.sleep(_PAUSE_SECONDS)

    def _put(self, data: bytes) -> bool:
        if self._is_cut:
            data = b"\n" + data
        try:
            while data:
                written = os.write(self._descriptor, data)
                self._is_cut = data[written - 1 : written] != b"\n"
                data = data[written:]
        except OSError:
            return False
        return True
