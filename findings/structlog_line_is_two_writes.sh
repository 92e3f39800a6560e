#!/bin/sh
# structlog: with PYTHONUNBUFFERED a line of PrintLogger, its default, is two writes; one of WriteLogger is one.
#
# One would guess: PrintLogger holds a lock while it prints and flushes, so each line reaches the descriptor whole, and
#   lines of other processes and of other loggers on the same stderr stand before or after it.
# What happens: PYTHONUNBUFFERED=1, which most Python images set, makes the text of sys.stderr and sys.stdout go out at
#   each call of write(), and print() calls it twice: with the line, and with its end. What somebody else writes between
#   the two comes on the same line, and an empty line follows: neither line is JSON any more for who collects them. The
#   lock is PrintLogger's own, so it keeps out neither another process nor a handler of logging.
#   structlog.WriteLogger writes line and end together, with the variable and without it; so does PrintLogger once the
#   stream was reconfigured to write_through=False.
# Source: structlog 26.1.0, CPython 3.11: print() of bltinmodule.c, create_stdio() of pylifecycle.c.
# Why it matters: now and then two lines cannot be read, in containers alone and under load, and the parser is blamed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check structlog==26.1.0
"$folder/venv/bin/python" - <<'PYTHON'
import os
import platform
import socket
import subprocess
import sys
from importlib.metadata import version

LOG = """
import sys, structlog
{before}
structlog.configure(processors=[structlog.processors.JSONRenderer()], logger_factory=structlog.{factory}(sys.stderr))
structlog.get_logger().info("paid", order=7)
"""
RECONFIGURED = "sys.stderr.reconfigure(line_buffering=True, write_through=False)"


def writes(factory, unbuffered, before=""):
    """What each write to stderr holds: it is a socket that keeps them apart."""
    reader, writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    if unbuffered:
        environment["PYTHONUNBUFFERED"] = "1"
    code = LOG.format(factory=factory, before=before)
    subprocess.run([sys.executable, "-c", code], stderr=writer.fileno(), env=environment, check=True)
    reader.setblocking(False)
    found = []
    while True:
        try:
            found.append(reader.recv(65536))
        except BlockingIOError:
            return found


WHOLE = [b'{"order": 7, "event": "paid"}\n']
SPLIT = [b'{"order": 7, "event": "paid"}', b"\n"]
cases = [
    ("PrintLoggerFactory", False, "", WHOLE),
    ("PrintLoggerFactory", True, "", SPLIT),
    ("PrintLoggerFactory", True, RECONFIGURED, WHOLE),
    ("WriteLoggerFactory", False, "", WHOLE),
    ("WriteLoggerFactory", True, "", WHOLE),
]
print("structlog", version("structlog"), "on Python", platform.python_version())
changed = False
for factory, unbuffered, before, expected in cases:
    seen = writes(factory, unbuffered, before)
    changed |= seen != expected
    how = "PYTHONUNBUFFERED=1" if unbuffered else "no PYTHONUNBUFFERED"
    print(f"{factory}, {how}{', reconfigured' if before else ''}: {seen}")
sys.exit("It behaves otherwise now." if changed else 0)
PYTHON
