"""Stops the embedded PostgreSQL once the process that started this one has ended, however it died:
`python -m runengine_server.processes.postgres_guard STATE_DIR PID`, with a pipe from process PID as its
standard input.

It imports nothing but the standard library, to stay small: it waits beside each `up` for all of its life.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import time
from pathlib import Path

# How long the worker may take to hand its runs back, before its sessions are ended too.
_SMART_SHUTDOWN_SECONDS = 6.0
_FAST_SHUTDOWN_SECONDS = 60.0

# How often it is checked whether PostgreSQL, or the parent, has ended.
_POSTGRES_CHECK_SECONDS = 0.1
_PARENT_CHECK_SECONDS = 0.01


def main(state_dir: Path, parent: int) -> None:
    """Waits for the end of process `parent`, then stops PostgreSQL, unless another `up` has taken over."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    # Linux closes the pipes of a killed process before it releases its file locks: on a busy machine 21 of 60
    # locks were still held at the end of file. Once this process has another parent, the lock is released.
    while os.getppid() == parent:
        time.sleep(_PARENT_CHECK_SECONDS)
    lock = os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return
    # A smart shutdown waits for the sessions that there are; a fast one ends them.
    if not _shut_down(state_dir, signal.SIGTERM, _SMART_SHUTDOWN_SECONDS):
        _shut_down(state_dir, signal.SIGINT, _FAST_SHUTDOWN_SECONDS)


def _shut_down(state_dir: Path, number: signal.Signals, seconds: float) -> bool:
    """Whether the server ends within so many seconds after this signal."""
    pid = _postmaster(state_dir)
    if pid is None:
        return True
    os.kill(pid, number)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if _postmaster(state_dir) != pid:
            return True
        time.sleep(_POSTGRES_CHECK_SECONDS)
    return False


def _postmaster(state_dir: Path) -> int | None:
    try:
        pid = int((state_dir / "postgres" / "postmaster.pid").read_text().splitlines()[0])
        os.kill(pid, 0)
    except (OSError, ValueError, IndexError):
        return None
    return pid


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
