"""One scenario, played to two other libraries and to runengine: a worker that comes back from the dead.

Worker A enters a job and is stopped (SIGSTOP). Its time runs out, and worker B takes the job over in the way
that the library's documentation recommends, and enters it. While B is inside, A goes on (SIGCONT) and ends
with one outcome; then B ends with the other one. What each library's database says afterwards is printed as
a table in Markdown. Every step waits for the event before it, and nothing for time to pass.

`make peers` runs it: `.venv/bin/python -m tests.faults.peers.zombie`
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import asyncpg
from runengine_server.logs import configure_logging

from tests.faults.peers.projects import (
    NOUNS,
    PYTHON,
    SECONDS,
    Observed,
    PgQueuer,
    Procrastinate,
    Project,
    RunEngine,
    Silent,
)
from tests.support.gates import Gates
from tests.support.stack import ROOT, open_directory, own_postgres

REQUIREMENTS = Path(__file__).with_name("requirements.txt").relative_to(ROOT)
MISSING = f"""The other libraries live in a virtual environment of their own. Make it with

    python3 -m venv .venv-peers
    .venv-peers/bin/python -m pip install -r {REQUIREMENTS}
"""

SCENARIO = """\
Worker A enters the job and is stopped (SIGSTOP). Its time runs out, and worker B takes the job over and
enters it. With B inside, A, the zombie, goes on (SIGCONT) and ends with one outcome; then B, its successor,
ends with the other. Each variant has a database of its own. Options not named here have their defaults."""

# What the zombie does, and then its successor: the words that open their gates.
VARIANTS = [("go", "fail"), ("fail", "go")]


async def until_stopped(pid: int) -> None:
    """Stops the process as Ctrl-Z does, and returns once it stands still."""
    os.kill(pid, signal.SIGSTOP)
    # WNOWAIT leaves the news to be heard again, so that Popen loses nothing of it.
    await asyncio.to_thread(os.waitid, os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)


async def play(project: Project, zombie: str, successor: str) -> Observed:
    """The scenario, on a database that is empty."""
    try:
        await project.prepare()
        async with Gates() as gates:
            worker_a = await project.start_worker()
            await project.trigger(gates)
            at_a = await gates.next()
            await until_stopped(worker_a.pid)

            worker_b = await project.start_worker()
            at_b = await gates.next()
            taken_over = await project.state()

            at_a.open(zombie)
            os.kill(worker_a.pid, signal.SIGCONT)
            await asyncio.wait_for(at_a.left.wait(), SECONDS)
            await project.until_zombie_is_through(worker_a)
            if at_b.left.is_set():
                raise Silent(f"the successor of {project.name} left before it was told to")
            zombie_through = await project.state()

            at_b.open(successor)
            await asyncio.wait_for(at_b.left.wait(), SECONDS)
            await project.until_successor_is_through(worker_b)
            final = await project.state()
            ends = project.ends[zombie]
            return Observed(zombie, successor, ends, taken_over, zombie_through, final, project.complained())
    finally:
        await project.stop()


async def compare(directory: Path) -> bool:
    """Plays everything and prints the table; answers whether runengine's zombies changed nothing."""
    async with own_postgres(directory) as (_, app_url):
        host = app_url.partition("?host=")[2]
        admin = await asyncpg.connect(f"postgresql://postgres@/postgres?host={host}")
        rows, sound = [], True
        for kind in (Procrastinate, PgQueuer, RunEngine):
            cells = [kind.name, kind.installed_version(), kind.recovery]
            for number, (zombie, successor) in enumerate(VARIANTS, 1):
                name = f"{kind.name}_{number}"
                ours = kind is RunEngine
                await admin.execute(f"CREATE DATABASE {name} TEMPLATE {'runengine' if ours else 'template0'}")
                admin_url = f"postgresql://postgres@/{name}?host={host}"
                url = f"postgresql://runengine_app@/{name}?host={host}" if ours else admin_url
                observed = await play(kind(admin_url, url), zombie, successor)
                cells.append(observed.describe())
                sound = sound and (observed.held or not ours)
            rows.append(cells)
        await admin.close()
    titles = [f"the zombie's {NOUNS[first]}, then its successor's {NOUNS[then]}" for first, then in VARIANTS]
    table = [["project", "version", "recovery used", *titles], ["---"] * 5, *rows]
    sys.stdout.write(f"{SCENARIO}\n\n")
    sys.stdout.writelines(f"| {' | '.join(cells)} |\n" for cells in table)
    return sound


def main() -> int:
    if not PYTHON.exists():
        sys.stderr.write(MISSING)
        return 1
    configure_logging()
    with open_directory() as directory:
        sound = asyncio.run(compare(directory))
    if not sound:
        sys.stderr.write("runengine: a zombie changed something\n")
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
