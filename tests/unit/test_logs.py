"""A log that cannot be written changes nothing for whoever logs."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest
from runengine_server.log_output import MAX_WAITING_BYTES, LogOutput

from tests.support.patience import SECONDS
from tests.support.stack import ROOT

LINE = b"x" * 1023


def dropped(count: int) -> bytes:
    return b"dropped %d" % count


@pytest.fixture
def pipe() -> tuple[int, int]:
    """(reader, writer) of a pipe of 4 KiB. Never closed: the output writes to it until the process ends."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    return reader, writer


def lines_until(reader: int, last: bytes) -> list[bytes]:
    with os.fdopen(os.dup(reader), "rb") as file:
        found = []
        for line in file:
            found.append(line.rstrip(b"\n"))
            if found[-1] == last:
                return found
    raise AssertionError(f"{last!r} did not come")


def test_a_pipe_that_nobody_reads_holds_nobody_up_and_the_log_says_what_it_dropped(
    pipe: tuple[int, int],
) -> None:
    reader, writer = pipe
    output = LogOutput(writer, dropped)
    written = 2 * MAX_WAITING_BYTES // len(LINE)
    for _ in range(written):
        output.write(LINE)  # would wait for ever
    seen: list[bytes] = []
    reading = threading.Thread(target=lambda: seen.extend(lines_until(reader, b"the last")))
    reading.start()
    while output.waiting_bytes:
        output.flush()
    output.write(b"the last")
    reading.join(SECONDS)
    said = [int(line.split()[1]) for line in seen if line.startswith(b"dropped ")]
    assert sum(said) > 0
    assert seen.count(LINE) + sum(said) == written
    assert seen[-1] == b"the last"


def test_lines_follow_again_once_a_full_disk_has_room(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    full = os.open("/dev/full", os.O_WRONLY)
    own = os.dup(full)
    output = LogOutput(own, dropped, retry_seconds=0.01)
    output.write(b"lost")
    output.flush()
    os.dup2(writer, own)
    assert lines_until(reader, b"dropped 1") == [b"dropped 1"]
    output.write(b"there")
    assert lines_until(reader, b"there") == [b"there"]
    os.close(full)


_FILL_A_DISK = """
import os, resource, signal, sys
from runengine_server.log_output import LogOutput

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (2500, hard))
output = LogOutput(1, lambda count: b"dropped %d" % count, retry_seconds=0.01)
with output._changed:  # the thread finds all of them
    for _ in range(3):
        output.write(b"x" * 1023)
output.flush()
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
output.write(b"the last")
while output.waiting_bytes or output.is_failing:
    output.flush()
"""


def test_of_lines_written_together_those_that_the_disk_has_taken_are_not_said_to_be_dropped(
    tmp_path: Path,
) -> None:
    with (tmp_path / "log").open("wb") as log:
        subprocess.run([sys.executable, "-c", _FILL_A_DISK], stdout=log, check=True, timeout=SECONDS)
    lines = (tmp_path / "log").read_bytes().split(b"\n")
    assert lines == [LINE, LINE, b"x" * (2500 - 2 * 1024), b"dropped 1", b"the last", b""]


def test_no_more_lines_are_written_together_than_a_pipe_takes_at_once() -> None:
    reader, writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    output = LogOutput(writer.fileno(), dropped)
    with output._changed:  # the thread finds all of them
        for _ in range(6):
            output.write(LINE)
    output.flush()
    with reader, writer:
        assert [len(reader.recv(65536)) for _ in range(2)] == [4096, 2048]


def test_a_reader_that_is_gone_does_not_make_the_writer_fail(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.close(reader)
    output = LogOutput(writer, dropped)
    for _ in range(3):
        output.write(b"nobody reads this")
        output.flush()
    assert output.is_failing


def test_a_forked_child_writes_lines_of_its_own(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    output = LogOutput(writer, dropped)
    output.write(b"the parent's")
    output.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a process with threads forks
        child = os.fork()
    if child == 0:
        output.write(b"the child's")
        output.flush()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert lines_until(reader, b"the child's") == [b"the parent's", b"the child's"]


_LOG_WHAT_CANNOT_BE_RENDERED = """
import logging, structlog
from runengine_server import logs

class Hostile:
    def __repr__(self):
        raise RuntimeError("no words")
    __str__ = __repr__

logs.configure_logging()
log = structlog.get_logger()
log.info("one", value=Hostile())
log.info("two", value="\\ud800")
log.info("three", value=10**100)
logging.getLogger("library").error("four %s", Hostile())
logging.getLogger("library").error("five %d", "no number")
log.info("six")
"""


def test_a_value_that_cannot_be_rendered_costs_its_own_line_alone() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _LOG_WHAT_CANNOT_BE_RENDERED], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 6
    assert "Traceback" not in done.stderr
    assert "no number" not in done.stderr
    assert '"six"' in lines[-1]


def test_a_line_that_is_printed_is_one_write_with_its_end() -> None:
    code = "import sys; from runengine_server import logs; logs.configure_logging(); " + "; ".join(
        f"print('a line', file=sys.{stream})" for stream in ("stdout", "stderr")
    )
    reader, writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)  # a datagram each write
    reader.settimeout(SECONDS)
    with reader, writer:
        unbuffered = [sys.executable, "-u", "-c", code]
        subprocess.run(unbuffered, stdout=writer.fileno(), stderr=writer.fileno(), check=True)
        assert [reader.recv(100) for _ in range(2)] == [b"a line\n"] * 2


_LOG_AT_ALL_LEVELS = """
import logging, sys, structlog
from runengine_server import logs

logs.configure_logging(sys.argv[1])
if sys.argv[2:]:
    logs.log_users_code(sys.argv[1], dict)
for level in ("debug", "info", "warning", "error", "critical"):
    getattr(structlog.get_logger(), level)("engine " + level)
    getattr(logging.getLogger("library"), level)("library " + level)
    getattr(logging.getLogger("langgraph.pregel"), level)("langgraph " + level)
"""


@pytest.mark.parametrize(
    ("arguments", "least"),
    [
        (("debug",), {"engine": 0, "library": 2, "langgraph": 2}),
        (("error",), {"engine": 3, "library": 3, "langgraph": 3}),
        (("debug", "users code"), {"engine": 0, "library": 0, "langgraph": 2}),
        (("info", "users code"), {"engine": 1, "library": 1, "langgraph": 2}),
        (("critical", "users code"), {"engine": 4, "library": 4, "langgraph": 4}),
    ],
)
def test_a_line_below_the_level_is_not_logged(arguments: tuple[str, ...], least: dict[str, int]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _LOG_AT_ALL_LEVELS, *arguments], capture_output=True, text=True, check=True
    )
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    for who, first in least.items():
        levels = [line["level"] for line in lines if line["event"].startswith(who)]
        assert levels == ["debug", "info", "warning", "error", "critical"][first:]


def test_each_logger_of_the_engine_is_one_that_configure_logging_binds() -> None:
    sources = [path.read_text() for path in (ROOT / "server/runengine_server").rglob("*.py")]
    lines = [line for text in sources for line in text.splitlines() if "get_logger()" in line]
    assert set(lines) == {"_log = structlog.get_logger()"}


def test_a_process_without_stderr_logs_into_nothing() -> None:
    script = "from runengine_server import logs\nlogs.configure_logging()\nlogs.print_error('x')"
    script += "\nimport structlog\nstructlog.get_logger().info('x')\nprint('fine')"
    done = subprocess.run(
        f"exec {sys.executable} -c \"$SCRIPT\" 2>&-",
        shell=True, env={**os.environ, "SCRIPT": script}, stdout=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "fine\n")
