"""Writes log lines to a file descriptor by a thread of its own, so that a slow reader holds nobody up."""

from __future__ import annotations

import atexit
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable

# How many bytes of lines may wait to be written; a line is cut off after MAX_LINE_BYTES.
MAX_WAITING_BYTES = 1024 * 1024
MAX_LINE_BYTES = 64 * 1024

# How long the end of the process may wait for its lines to be written.
_FLUSH_SECONDS = 1.0

# How long to wait before the next write after one that failed: the disk is full, or the reader gone.
_RETRY_SECONDS = 1.0


class LogOutput:
    """Lines on a file descriptor. `write` returns at once and never raises, whatever becomes of the line.

    A line is dropped when too many wait, or when the descriptor does not take it. Once lines can be written
    again, `dropped_line` makes one that says how many were dropped.
    """

    def __init__(
        self, descriptor: int, dropped_line: Callable[[int], bytes], retry_seconds: float = _RETRY_SECONDS
    ) -> None:
        self._descriptor = descriptor
        self._dropped_line = dropped_line
        self._retry_seconds = retry_seconds
        self._reset()
        atexit.register(self.flush)
        # A forked child has none of its parent's threads, and the parent writes the lines that wait.
        os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._dropped = 0
        self._is_writing = self._is_failing = self._is_mid_line = False
        self._thread: threading.Thread | None = None

    @property
    def waiting_bytes(self) -> int:
        """How many bytes wait to be written."""
        return self._waiting_bytes

    @property
    def is_failing(self) -> bool:
        """Whether the last write failed."""
        return self._is_failing

    def start(self) -> None:
        """Starts the thread, which otherwise starts with the first line."""
        with self._changed:
            self._has_thread()

    def write(self, line: bytes) -> None:
        """Takes a line, without its line break."""
        line = line[:MAX_LINE_BYTES] + b"\n"
        with self._changed:
            if self._waiting_bytes + len(line) > MAX_WAITING_BYTES or not self._has_thread():
                self._dropped += 1
                return
            self._waiting.append(line)
            self._waiting_bytes += len(line)
            self._changed.notify_all()

    def flush(self) -> None:
        """Returns once all lines are written, after a second at most."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._is_failing or not (self._waiting or self._is_writing), _FLUSH_SECONDS
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
                changed.wait_for(lambda: self._waiting or self._dropped)
                self._is_writing = True
                dropped, lines = self._dropped, self._take_lines()
            told = self._dropped_line(dropped) + b"\n" if dropped else b""
            unwritten = self._write_bytes(told + b"".join(lines))
            if not unwritten:
                with changed:
                    self._dropped -= dropped
                    self._is_failing = False
                continue
            with changed:
                for line in reversed(lines):
                    self._dropped += unwritten > 0
                    unwritten -= len(line)
                self._is_failing = True
                changed.notify_all()
            time.sleep(self._retry_seconds)

    def _take_lines(self) -> list[bytes]:
        """The first that waits, with those after it that a pipe takes with it at once: of other processes
        that have the same stderr no line comes in between.
        """
        lines: list[bytes] = []
        size = 0
        while self._waiting and (not lines or size + len(self._waiting[0]) <= select.PIPE_BUF):
            lines.append(self._waiting.popleft())
            size += len(lines[-1])
        self._waiting_bytes -= size
        return lines

    def _write_bytes(self, data: bytes) -> int:
        """Returns how many bytes are not written."""
        if self._is_mid_line:
            data = b"\n" + data
        try:
            while data:
                written = os.write(self._descriptor, data)
                self._is_mid_line = data[written - 1 : written] != b"\n"
                data = data[written:]
        except OSError:
            pass
        return len(data)
