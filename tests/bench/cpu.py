"""CPU time, by process: what a bench's own processes take, each under its name, and what all others take.

Alone, so that `rounds` can load it beside the bench of an older commit.
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")

# The generator of the load, and PostgreSQL, whose processes are no children of anybody here.
LOAD, POSTGRESQL = "load", "PostgreSQL"

# A process that waits all the time still wakes now and then.
_IDLE = 0.005


@dataclass(frozen=True)
class Process:
    """What `/proc/PID/stat` says."""

    pid: int
    parent: int
    command: str
    own: float
    """Seconds of CPU, of all its threads."""
    ended: float
    """Those of its children that have ended, and of theirs."""


def parse_stat(text: str) -> Process:
    """Of the text of `/proc/PID/stat`. The command may have spaces and parentheses in it."""
    pid, _, rest = text.partition(" (")
    command, _, rest = rest.rpartition(") ")
    fields = rest.split()
    own, ended = int(fields[11]) + int(fields[12]), int(fields[13]) + int(fields[14])
    return Process(int(pid), int(fields[1]), command, own / _TICKS, ended / _TICKS)


def parse_busy(text: str) -> float:
    """Seconds that all cores were not idle, of the text of `/proc/stat`: what the hypervisor took counts."""
    user, nice, system, _, _, irq, softirq, steal = map(int, text.split("\n", 1)[0].split()[1:9])
    return (user + nice + system + irq + softirq + steal) / _TICKS


def _precise(process: Process) -> float:
    """Its own CPU time by its clock: `stat` counts in hundredths of a second, and some rounds take ten."""
    try:
        return time.clock_gettime(~process.pid << 3 | 2)
    except OSError:
        return process.own


def name_of(arguments: Sequence[str]) -> str:
    """What a command line starts: `serve` of `-m runengine_server serve`, else the module."""
    if "-m" not in arguments:
        return Path(arguments[0]).name
    module, *rest = arguments[list(arguments).index("-m") + 1 :]
    return rest[0] if module == "runengine_server" and rest else module.rpartition(".")[2]


def _all() -> Iterator[Process]:
    for directory in _PROC.iterdir():
        if directory.name.isdigit():
            try:
                yield parse_stat((directory / "stat").read_text())
            except OSError:
                continue


def _arguments(pid: int) -> list[str]:
    try:
        return (_PROC / str(pid) / "cmdline").read_bytes().decode().rstrip("\0").split("\0")
    except OSError:
        return ["ended"]


def _directory(pid: int) -> Path:
    try:
        return Path(os.readlink(_PROC / str(pid) / "cwd"))
    except OSError:
        return Path("/")


@dataclass(frozen=True)
class Reading:
    """Seconds, until now."""

    at: float
    busy: float
    by_name: dict[str, float]


@dataclass(frozen=True)
class Round:
    """What one round gave."""

    value: float
    calls: float
    seconds: float
    cpu: dict[str, float]
    """Seconds, by the names of the bench's processes."""
    others: float
    """Cores that other processes took, on the average."""

    def micros(self, *without: str) -> float:
        """CPU of what serves, µs a call."""
        return sum(taken for name, taken in self.serving.items() if name not in without) / self.calls * 1e6

    @property
    def serving(self) -> dict[str, float]:
        """Without the load, and without what waits."""
        least = _IDLE * sum(self.cpu.values())
        return {name: taken for name, taken in self.cpu.items() if name != LOAD and taken > least}


class Meter:
    """Reads the CPU time of this process, of its descendants, and of each PostgreSQL whose data is in one of
    the directories.
    """

    def __init__(self, directories: list[Path]) -> None:
        self._directories = directories

    def read(self) -> Reading:
        """All until now."""
        at, busy = time.perf_counter(), parse_busy((_PROC / "stat").read_text())
        processes = {each.pid: each for each in _all()}
        own = processes[os.getpid()]
        by_name = {LOAD: _precise(own) + own.ended}
        for process in processes.values():
            if (name := self._name(process, processes)) is not None:
                by_name[name] = by_name.get(name, 0.0) + _precise(process) + process.ended
        return Reading(at, busy, by_name)

    def _name(self, process: Process, processes: dict[int, Process]) -> str | None:
        """That of the child of ours that it descends from, or None."""
        if process.command == "postgres":
            directory = _directory(process.pid)
            if any(each in directory.parents for each in self._directories):
                return POSTGRESQL
        ours = os.getpid()
        while process.parent != ours:
            if (parent := processes.get(process.parent)) is None:
                return None
            process = parent
        return name_of(_arguments(process.pid))

    async def round(
        self, measure: Callable[[], Awaitable[float]], count: Callable[[float, float], float]
    ) -> Round:
        """One round; `count` says how many calls it had from its figure and its seconds."""
        before = self.read()
        value = await measure()
        after = self.read()
        seconds = after.at - before.at
        cpu = {name: until - before.by_name.get(name, 0.0) for name, until in after.by_name.items()}
        others = max(after.busy - before.busy - sum(cpu.values()), 0.0) / seconds
        return Round(value, count(value, seconds), seconds, cpu, others)
