"""The figure of one row, a round for each line of its input: what `against` runs in two checkouts at once.

It is executed by its path, in a checkout of any version that has the rows: `python …/rounds.py NUMBER PLACE
CALLS H2LOAD`. The generator of the load and the meter are of the version of this file, for both.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any


def _ours(name: str) -> Any:
    """A module of this directory, in place of one that the checkout may have."""
    package = importlib.import_module("tests.bench")
    full = f"tests.bench.{name}"
    specification = importlib.util.spec_from_file_location(full, Path(__file__).with_name(f"{name}.py"))
    assert specification is not None
    assert specification.loader is not None
    sys.modules[full] = module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    setattr(package, name, module)
    return module


async def _rounds(number: int, place: int, calls: int | None, h2load: bool) -> None:
    cpu, _, load = _ours("cpu"), _ours("h2load"), _ours("load")
    rows: Any = importlib.import_module("tests.bench.rows")
    servers: Any = importlib.import_module("tests.bench.servers")

    os.sched_setaffinity(0, [servers.LOAD_CORE])
    row = [each for each in rows.ROWS if each.number == number][place]
    loop = asyncio.get_running_loop()
    async with servers.Bench.open() as bench:
        try:
            load.Generator.choose(h2load)
            async with row.pair(bench) as (figure, _):
                await figure()
                print(f"{row.figure}, {row.unit}", flush=True)
                meter = cpu.Meter([bench.directory])
                while await loop.run_in_executor(None, sys.stdin.readline):
                    measured = await meter.round(figure, load.Generator.counting(calls))
                    print(json.dumps(asdict(measured)), flush=True)
        except (servers.Missing, load.Missing) as missing:
            print(f"skipped: {missing}", flush=True)


if __name__ == "__main__":
    import uvloop

    # The checkout that it is run in, and not the one that it lies in.
    sys.path[0] = os.getcwd()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(
            _rounds(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]) or None, sys.argv[4] == "h2load")
        )
