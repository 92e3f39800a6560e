"""nghttp2's h2load, a load generator in C: a tenth of the CPU of a server written in Python, a call.

Alone but for `load`, so that `rounds` can load it beside the bench of an older commit.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

MISSING = "h2load is not installed; apt-get install nghttp2-client"

_ANSWERED = re.compile(r"(\d+) done, (\d+) succeeded.*?, (\d+) failed, (\d+) errored, (\d+) timeout")
_DATA = re.compile(r"\((\d+)\) data")

# How much shorter than the first answer the others may be on the average: times in them vary by some bytes.
_SHORTER = 0.01


class Unanswered(Exception):
    """Not all was answered as the first was."""


def installed() -> bool:
    """Whether there is one."""
    return shutil.which("h2load") is not None


def check(output: str, length: int | None) -> None:
    """Raises Unanswered unless all succeeded, with answers as long as the first (None: of whatever length).

    gRPC's status is in trailers, which h2load does not look at; a call that fails has no message.
    """
    answered, data = _ANSWERED.search(output), _DATA.search(output)
    if answered is None or data is None:
        raise Unanswered(output)
    done, succeeded, *others = map(int, answered.groups())
    if not succeeded or done != succeeded or any(others):
        raise Unanswered(output)
    if length is not None and int(data[1]) < done * length * (1 - _SHORTER):
        raise Unanswered(f"answers of {int(data[1]) / done:.0f} bytes, where the first has {length}")


def parse_log(text: str) -> tuple[list[float], float]:
    """The latencies of h2load's log in seconds, and the seconds from the first request to the last answer."""
    lines = [[int(field) for field in line.split("\t")] for line in text.splitlines()]
    begin = min(sent for sent, _, _ in lines)
    end = max(sent + taken for sent, _, taken in lines)
    return [taken / 1e6 for _, _, taken in lines], (end - begin) / 1e6


async def run(
    url: str, headers: Mapping[str, str], body: bytes, clients: int, streams: int, *, http1: bool,
    seconds: float, calls: int | None, length: int | None,
) -> tuple[list[float], float]:  # fmt: skip
    """Latencies, and how long it took in all. Raises Unanswered."""
    with tempfile.TemporaryDirectory(prefix="runengine-h2load-") as directory:
        log, file = Path(directory) / "log", Path(directory) / "body"
        file.write_bytes(body)
        much = ("-D", f"{seconds * 1000:.0f}ms") if calls is None else ("-n", f"{calls}")
        process = await asyncio.create_subprocess_exec(
            "h2load", *much, "-c", f"{clients}", "-m", f"{streams}", "--log-file", f"{log}",
            *(("--h1",) if http1 else ()), *(("-d", f"{file}") if body else ()),
            *(each for name, value in headers.items() for each in ("-H", f"{name}: {value}")), url,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        output, _ = await process.communicate()
        check(output.decode(), length)
        return parse_log(log.read_text())
