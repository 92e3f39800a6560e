"""What a process that a node forks, with multiprocessing say, must not have of its worker."""

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


def release_forked_children(database_url: str, close: Callable[[], object]) -> None:
    """Makes every child that is forked from now on a process like any other.

    A signal to it would wake the worker's event loop, whose wake-up socket and handlers it inherits, and
    not end the child. Its copies of the connections to the database would keep the worker's sessions open
    after its death. `close` is called in it, for what else is to be closed.
    """
    ports = _ports_of(database_url)
    masks = threading.local()

    def before() -> None:
        # A signal that is sent to the child before it has its own handlers waits for them.
        masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)

    def in_parent() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, masks.before)

    def in_child() -> None:
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            close()
            _give_up_connections(ports)
        finally:
            in_parent()

    os.register_at_fork(before=before, after_in_parent=in_parent, after_in_child=in_child)


def _ports_of(database_url: str) -> set[int]:
    places = urlsplit(database_url)
    named = re.findall(r":(\d+)", places.netloc.rpartition("@")[2]) + parse_qs(places.query).get("port", [])
    return {5432, *map(int, named)}


def _give_up_connections(ports: Set[int]) -> None:
    try:
        descriptors = [int(each.name) for each in Path("/proc/self/fd").iterdir()]
    except OSError:  # no Linux
        return
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for descriptor in descriptors:
        if _leads_to_postgresql(descriptor, ports):
            # Not closed: the number would be given to another file, and closed again with its connection.
            os.dup2(nothing, descriptor, inheritable=False)
    os.close(nothing)


def _leads_to_postgresql(descriptor: int, ports: Set[int]) -> bool:
    try:
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            return False
        with socket.socket(fileno=os.dup(descriptor)) as copy:
            peer = copy.getpeername()
    except OSError:
        return False
    return _POSTGRESQL_SOCKET in peer if isinstance(peer, str) else peer[1] in ports
