"""`make profile`: where the time goes in row 1's server, in row 3's and in row 8's worker.

Writes a flame graph of each into `profile/`, prints the functions and the packages with the largest self
time, those of C code among them, and writes the three largest of each into `profile/COSTS.md`, which `make
bench` shows.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop
from runengine_server.logs import configure_logging

from tests.bench.load import grpc_load, http_load
from tests.bench.measured_calls import IN_FLIGHT
from tests.bench.measured_runs import four_steps
from tests.bench.servers import LIST, LOAD_CORE, Bench, peer_python

GRAPHS = Path(__file__).with_name("profile")
COSTS = GRAPHS / "COSTS.md"

_SECONDS = 10
_SHOWN = 15
_LARGEST = 3

# A frame of py-spy's: `function (file:line)`, or `function (library.so)`.
_FRAME = re.compile(r"(?P<function>.*) \((?P<file>[^()]*?)(?::\d+)?\)")

# Where a thread is that waits for work; it is seen there although it has some while others have its core.
_WAITING = re.compile(r"epoll_p?wait|select_epoll_poll_impl|PyThread_acquire_lock")

# What C sources belong to; their paths are those of where they were compiled.
_COMPILED = re.compile(r"uvloop|libuv|asyncpg")

# Not these, but who calls them, are what a package's time goes to.
_BASE = re.compile(
    r"libc[.-]|libpython|libpthread|libstdc|ld-linux|/Python-|/(Objects|Modules|Python|[Ii]nclude)/"
)


def _package(file: str) -> str | None:
    """What a file belongs to: a directory of ours, an installed package, Python's library; None for C's."""
    if "/runengine_server/" in file:
        return "/".join(file.rpartition("/server/")[2].split("/")[:2]).removesuffix(".py")
    if (compiled := _COMPILED.search(file)) is not None:
        return compiled[0].replace("libuv", "uvloop")
    if "site-packages/" in file:
        return file.rpartition("site-packages/")[2].split("/")[0]
    if "/lib/python3" in file or file.startswith("<"):
        return "Python's library"
    return None if _BASE.search(file) else file


def _largest(counts: Counter[str], total: int) -> str:
    return "\n".join(f"  {count / total:5.1%}  {name}" for name, count in counts.most_common(_SHOWN))


def _costs(samples: str) -> tuple[Counter[str], Counter[str]]:
    """The self times of functions and of packages in stacks of `frame;frame;… count`."""
    functions, packages = Counter[str](), Counter[str]()
    for line in samples.splitlines():
        stack, _, count = line.rpartition(" ")
        frames = [
            (found["function"], found["file"]) if (found := _FRAME.fullmatch(frame)) else (frame, "")
            for frame in reversed(stack.split(";"))
        ]
        function, file = frames[0]
        if any(_WAITING.match(above) for above, _ in frames[:4]):
            continue
        functions[f"{function}  {'/'.join(file.split('/')[-3:])}"] += int(count)
        owners = (_package(file) for _, file in frames if file)
        packages[next((owner for owner in owners if owner is not None), "?")] += int(count)
    return functions, packages


async def _record(pid: int, form: str, to: Path) -> None:
    spy = Path(peer_python("py-spy")).with_name("py-spy")
    process = await asyncio.create_subprocess_exec(
        spy, "record", "--pid", str(pid), "--native", "--full-filenames",
        "--rate", "200", "--duration", str(_SECONDS),
        "--format", form, "--output", to,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    if await process.wait() != 0:
        raise RuntimeError(f"py-spy ended with {process.returncode}; it needs to be allowed to trace")


async def _profile(name: str, pid: int, load: Callable[[], Awaitable[object]], bench: Bench) -> str:
    """Of the process under the load, which is repeated for as long as it takes; its largest costs."""

    async def repeat() -> None:
        while True:
            await load()

    await load()
    loading = asyncio.create_task(repeat())
    graph, samples = GRAPHS / f"{name}.svg", bench.directory / f"{name}.txt"
    try:
        await _record(pid, "flamegraph", graph)
        await _record(pid, "raw", samples)
    finally:
        loading.cancel()
        await asyncio.gather(loading, return_exceptions=True)
    functions, packages = _costs(samples.read_text())
    total = functions.total()
    print(
        f"{name}: {graph}\n self time by function\n{_largest(functions, total)}\n"
        f" self time by package, with what it calls in C\n{_largest(packages, total)}\n",
        flush=True,
    )
    lines = [
        f"- by {kind}: " + "; ".join(
            f"{' '.join(each.split())} {count / total:.0%}" for each, count in counts.most_common(_LARGEST)
        )
        for kind, counts in (("package, with what it calls in C", packages), ("function", functions))
    ]  # fmt: skip
    return "\n".join([f"**{name}**, self time", "", *lines])


async def _profiles() -> None:
    GRAPHS.mkdir(exist_ok=True)
    async with Bench.open() as bench:
        served = await bench.served()
        serve = await _profile(
            "row-1-serve",
            served.serve_pid,
            lambda: grpc_load(
                served.address, LIST, [served.list_request], served.token, IN_FLIGHT, seconds=1
            ),
            bench,
        )
        rest = await _profile(
            "row-3-serve",
            served.serve_pid,
            lambda: http_load(
                served.stack.rest_address,
                "GET",
                served.list_path,
                IN_FLIGHT,
                token=served.token,
                seconds=1,
            ),
            bench,
        )
        working = await bench.one_working()
        worker = await _profile("row-8-worker", working.worker_pids[0], await four_steps(bench), bench)
    head = "## Where the time goes\n\n`make profile` writes this part, and a flame graph of each."
    COSTS.write_text("\n\n".join([head, serve, rest, worker]))


def main() -> None:
    """Profiles them all."""
    configure_logging()
    os.sched_setaffinity(0, [LOAD_CORE])
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_profiles())


if __name__ == "__main__":
    main()
