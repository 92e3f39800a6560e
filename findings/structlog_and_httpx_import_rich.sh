#!/bin/sh
# structlog and httpx: to import either imports rich wherever that is installed, whatever they are used for.
#
# One would guess: a process that logs JSON and calls HTTP does not have the library that colours terminals. rich is
#   imported by structlog.dev.ConsoleRenderer, when somebody makes one, and for httpx by its command, an extra.
# What happens: `import structlog` imports structlog.dev and structlog.tracebacks, `import httpx` imports its command
#   where click and pygments are there too, and each imports rich: megabytes of each process and a part of its start,
#   also in services that never write to a terminal. They come with what nobody thinks of here: typer brings rich and
#   pygments, uvicorn brings click.
#   With sys.modules["rich"] = None while the two are imported, and deleted after, it stays out until somebody else
#   wants it; ConsoleRenderer has plain tracebacks then.
# Source: structlog 26.1.0, dev.py and tracebacks.py: try: import rich, at their heads. httpx 0.28.1, __init__.py: try:
#   from ._main import main.
# Why it matters: a program of five processes that adds a command line takes 20 MiB more for nothing, and nothing in
#   its own imports says why.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check structlog==26.1.0 httpx==0.28.1 \
  typer==0.29.2 rich==15.0.0 uvicorn==0.54.0
"$folder/venv/bin/python" - <<'PYTHON'
import subprocess
import sys
from importlib.metadata import requires, version

MEASURE = """
import sys
{before}
import {module}
{after}
rollup = open("/proc/self/smaps_rollup").read().split()
print(len([each for each in sys.modules if each.partition(".")[0] == "rich"]),
    int(rollup[rollup.index("Pss_Anon:") + 1]) / 1024)
"""


def measured(module, before="", after=""):
    """How many modules of rich a process has, and its own memory in MiB."""
    code = MEASURE.format(module=module, before=before, after=after)
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    modules, mebibytes = said.splitlines()[-1].split()
    return int(modules), float(mebibytes)


print(f"typer {version('typer')} requires", [each for each in requires("typer") if each.startswith("rich")])
is_as_described = True
for module in ("structlog", "httpx"):
    some, much = measured(module)
    none, less = measured(module, "sys.modules['rich'] = None", "del sys.modules['rich']")
    print(f"{module} {version(module)}: {some} modules of rich, {much:.1f} MiB")
    print(f"  with rich {version('rich')} kept out: {none}, {less:.1f} MiB")
    is_as_described &= some > 10 and none == 0 and much > less
sys.exit(not is_as_described)
PYTHON
echo "as described: both import rich"
