"""Compares runs with plain LangGraph, on the graphs of LangGraph's own tests: `make compat LANGGRAPH=…`."""

from __future__ import annotations

import argparse
import os
import sys
import types
from pathlib import Path
from typing import Any

_TESTS = "libs/langgraph/tests"


def main() -> int:
    """The exit code: 0 where at least 100 graphs were compared and no difference is unexplained."""
    parser = argparse.ArgumentParser(prog="python -m tests.compat", description=__doc__)
    parser.add_argument("langgraph", nargs="?", default="", help="a checkout of langchain-ai/langgraph")
    parser.add_argument("--only", nargs="*", default=[], help="files of its tests, such as test_pregel.py")
    parser.add_argument("-k", default="", help="only tests with that in their name, as pytest has it")
    arguments = parser.parse_args()
    tests = Path(arguments.langgraph, _TESTS).absolute()
    if not arguments.langgraph or not tests.is_dir():
        where = f"there is none in {arguments.langgraph}" if arguments.langgraph else "none is given"
        print(
            f"make compat LANGGRAPH=… takes a checkout of langchain-ai/langgraph; {where}.", file=sys.stderr
        )
        return 2
    os.environ.setdefault("RUNENGINE_PATIENCE", "20")
    os.environ["LANGSMITH_TRACING"] = "false"
    os.environ["NO_DOCKER"] = "true"
    return _judge(tests, arguments)


def _judge(tests: Path, arguments: Any) -> int:
    # LangGraph's tests import one another from a package `tests` too: theirs is looked up after ours.
    import tests as ours

    ours.__path__.append(str(tests))
    _stand_in("pytest_mock", "MockerFixture")
    _stand_in("syrupy", "SnapshotAssertion")
    _stand_in("tests.conftest", NO_DOCKER=True)

    # Imported here, for patience and the switch of tracing are read from the environment.
    import pytest

    from tests.compat import recording
    from tests.compat.engine_thread import EngineThread
    from tests.compat.plugin import Plugin
    from tests.compat.report import Report

    recording.install()
    report = Report(on_file=lambda name: print(name, file=sys.stderr))
    with EngineThread() as engine:
        plugin = Plugin(engine.new_player, engine.start, report.add)
        files = [str(tests / each) for each in arguments.only] or sorted(map(str, tests.glob("test_*.py")))
        options = ["-c", os.devnull, "--rootdir", str(tests.parent), "--noconftest", "-p", "no:asyncio"]
        options += ["-p", "no:xdist", "-p", "no:timeout", "-p", "no:warnings", "-p", "no:cacheprovider"]
        options += ["-k", arguments.k] if arguments.k else []
        options += ["-p", "no:terminal", "--continue-on-collection-errors"]
        pytest.main([*options, *files], plugins=[plugin])
        report.unread = plugin.unread
    print(report.text())
    return report.exit_code


def _stand_in(name: str, *classes: str, **values: Any) -> None:
    """A module of that name for one that LangGraph's tests import, and of which they use a fixture alone."""
    module = types.ModuleType(name)
    for each in classes:
        setattr(module, each, type(each, (), {}))
    vars(module).update(values)
    sys.modules[name] = module


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads of nodes that nothing stops any more would keep the process.
    os._exit(code)
