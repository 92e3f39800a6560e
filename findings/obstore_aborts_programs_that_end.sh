#!/bin/sh
# obstore: a program that awaits it and ends at once is aborted now and then, with 134, when all it had to do is done.
#
# One would guess: once the last await has returned, nothing of it is under way, and the program ends with 0.
# What happens: a thread of its Rust runtime sets the result, which wakes the program, and only then lets go of its Python
#   objects. When the interpreter is being taken down by then, the process is killed by SIGABRT, mostly without a word: some
#   programs in a hundred, or each fourth, as the machine has it; with a directory as with S3. asyncio.run() returned
#   and what was to be printed is. Its synchronous calls do not do this, nor does a program that goes on for 50 ms.
# Source: obstore 0.12.1 (pyo3-async-runtimes), CPython 3.11.
# Why it matters: a job that uploads a file and ends fails in CI and in cron, after the upload, and cannot be reproduced.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check obstore==0.12.1
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import platform
import subprocess
import sys
from collections import Counter
from importlib.metadata import version

PROGRAM = """
import asyncio, sys
from obstore.store import LocalStore

async def main():
    store = LocalStore(sys.argv[1] + "/files", mkdir=True)
    for number in range(3):
        await store.put_async(f"key-{number}", b"x")
        await (await store.get_async(f"key-{number}")).bytes_async()
    await asyncio.sleep(float(sys.argv[2]))

asyncio.run(main())
print("done", flush=True)
"""
TIMES = 100


def ended(seconds):
    """How often the program ended how, when it goes on for so long."""
    command = [sys.executable, "-c", PROGRAM, sys.argv[1], str(seconds)]
    ends = (subprocess.run(command, capture_output=True, text=True) for _ in range(TIMES))
    return Counter((each.returncode, each.stdout.strip()) for each in ends)


print("obstore", version("obstore"), "on Python", platform.python_version())
at_once, later = ended(0), ended(0.05)
print(f"ends at once: {dict(at_once)}")
print(f"ends 50 ms later: {dict(later)}")
is_as_told = at_once[(-6, "done")] > 0 and sum(at_once.values()) == at_once[(-6, "done")] + at_once[(0, "done")]
sys.exit(0 if is_as_told and later == {(0, "done"): TIMES} else "It behaves otherwise now, or not on this machine.")
PYTHON
