"""Detaches a process that a node forks, with multiprocessing as an example, from its worker."""

from __future__ import annotations

import os
import re
import signal
import socket
import stat
import threading
from collections.abc import Callable, Set
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_POSTGRESQL_SOCKET = "/.s.PGSQL."


def detach_forked_children(database_url: str, close: Callable[[], object]) -> None:
    """Gives every child that is forked from now on default signal handlers and no connection to the database.

    It inherits the wake-up socket and the handlers of the worker's event loop, so a signal to it would wake
    that loop and not end the child. Its copies of the connections would keep the worker's sessions open after
    the worker's death. `close` is called in the child, to close whatever else it must not keep open.
    """
    ports = _ports_of(database_url)
    masks = threading.local()

    def before() -> None:
        # A signal that reaches the child before it has its own handlers waits until then.
        masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)

    def in_parent() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, masks.before)

    def in_child() -> None:
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            close()
            _replace_connections(ports)
        finally:
            in_parent()

    os.register_at_fork(before=before, after_in_parent=in_parent, after_in_child=in_child)


def _ports_of(database_url: str) -> set[int]:
    parts = urlsplit(database_url)
    ports = re.findall(r":(\d+)", parts.netloc.rpartition("@")[2]) + parse_qs(parts.query).get("port", [])
    return {5432, *map(int, ports)}


def _replace_connections(ports: Set[int]) -> None:
    try:
        descriptors = [int(each.name) for each in Path("/proc/self/fd").iterdir()]
    except OSError:  # not Linux
        return
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for descriptor in descriptors:
        if _is_connected_to_postgresql(descriptor, ports):
            # Not closed: its number would be given to another file, which the connection would close at its
            # end.
            os.dup2(null, descriptor, inheritable=False)
    os.close(null)


def _is_connected_to_postgresql(descriptor: int, ports: Set[int]) -> bool:
    try:
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            return False
        with socket.socket(fileno=os.dup(descriptor)) as copy:
            peer = copy.getpeername()
    except OSError:
        return False
    return _POSTGRESQL_SOCKET in peer if isinstance(peer, str) else peer[1] in ports
