"""What processes have: tasks, threads, descriptors, connections, memory, each by its kind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.support.patience import SECONDS

Figures = dict[str, Counter[str]]
Reading = dict[str, Figures]

# gRPC's own pool, to which a thread is added when work waits there, on a busy machine, and which ends one
# that had nothing to do for 20 s, of which pings leave none (grpcio 1.85.1). Nothing of ours runs there: what
# could be left of gRPC is a channel, a call or a socket, and those are counted.
_POOL_OF_GRPC = "event_engine"


class Reports:
    """Asks processes of tests/faults/reporting.py what they have, and looks at them from outside."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def __enter__(self) -> Reports:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self._path)
        self._socket.setblocking(False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    async def read(self, pids: dict[int, str], known_ports: set[int], collect: bool = False) -> Reading:
        """What each process has now, by its name; `collect`: after it has collected its garbage."""
        for pid in pids:
            os.kill(pid, signal.SIGUSR2 if collect else signal.SIGUSR1)
        reading: Reading = {}
        async with asyncio.timeout(SECONDS):
            while len(reading) < len(pids):
                report = json.loads(await asyncio.get_running_loop().sock_recv(self._socket, 1024 * 1024))
                if (name := pids.get(report.pop("pid"))) is not None:
                    reading[name] = {key: Counter(value) for key, value in report.items()}
        for pid, name in pids.items():
            reading[name]["threads"] = _threads(pid)
            reading[name]["descriptors"] = _descriptors(pid, known_ports)
            reading[name]["connections"] = Counter()
        return reading


async def connections_of(admin: Any, prefix: str) -> dict[str, Counter[str]]:
    """What PostgreSQL has of connections whose application's name starts so, by what follows in it."""
    rows = await admin.fetch(
        """SELECT substr(application_name, length($1) + 1) AS name, count(*),
            CASE WHEN state LIKE 'idle in%' THEN 'in a transaction' ELSE 'connection' END AS kind
        FROM pg_stat_activity
        WHERE datname = current_database() AND starts_with(application_name, $1) GROUP BY 1, 3""",
        prefix,
    )
    found: dict[str, Counter[str]] = {}
    for row in rows:
        found.setdefault(row["name"], Counter())[row["kind"]] = row["count"]
    return found


def ports_of(addresses: Iterable[str]) -> set[int]:
    """Of HOST:PORT each."""
    return {int(address.rpartition(":")[2]) for address in addresses}


def differences(before: Reading, after: Reading) -> list[str]:
    """What is not as it was, in words."""
    return [
        f"{process}, {figure}: {kind} {before[process][figure][kind]} → {after[process][figure][kind]}"
        for process in before
        for figure in before[process]
        for kind in sorted({*before[process][figure], *after[process][figure]})
        if before[process][figure][kind] != after[process][figure][kind]
    ]


def most_of(first: Reading, second: Reading) -> Reading:
    """The greater figure of each kind."""
    return {name: {key: kinds | second[name][key] for key, kinds in of.items()} for name, of in first.items()}


def least_of(first: Reading, second: Reading) -> Reading:
    """The smaller figure of each kind."""
    return {name: {key: kinds & second[name][key] for key, kinds in of.items()} for name, of in first.items()}


def _descriptors(pid: int, known_ports: set[int]) -> Counter[str]:
    sockets = _sockets(pid, known_ports)
    found: Counter[str] = Counter()
    for each in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            to = os.readlink(each)
            kind, _, inode = to.partition(":[")
            found[sockets.get(inode.rstrip("]"), kind) if kind == "socket" else kind] += 1
    return found


def _threads(pid: int) -> Counter[str]:
    found: Counter[str] = Counter()
    for each in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # ended meanwhile
            found[(each / "comm").read_text().strip()] += 1
    del found[_POOL_OF_GRPC]
    return found


_TCP_STATES = {"01": "established", "08": "closed by the other side", "0A": "listening"}


def _sockets(pid: int, known_ports: set[int]) -> dict[str, str]:
    """What each socket is, by its inode. Ports that are anyone's are left out."""

    def port(address: str) -> str:
        number = int(address.rpartition(":")[2], 16)
        return str(number) if number in known_ports else "any"

    found = {}
    for line in Path(f"/proc/{pid}/net/unix").read_text().splitlines()[1:]:
        found[line.split()[6]] = "unix socket"
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6
            for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]:
                fields = line.split()
                state = _TCP_STATES.get(fields[3], f"TCP state {fields[3]}")
                found[fields[9]] = f"socket {port(fields[1])} to {port(fields[2])}, {state}"
    return found


def memory_of(pid: int) -> int:
    """What the process has for itself, in MiB: without the memory that PostgreSQL's processes share."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon:", "VmSwap:"))) // 1024
