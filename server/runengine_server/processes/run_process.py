"""Runs the coroutine of a command, from the settings to the exit code."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

import uvloop

from runengine_server import logs
from runengine_server.processes.children import ChildFailed
from runengine_server.settings import Settings, SettingsError, read_settings

Process: TypeAlias = Callable[[Settings], Coroutine[Any, Any, None]]


def run_process(process: Process) -> None:
    """Returns when the process has ended well, and otherwise exits: with 1 for a setting that is wrong or a
    child that failed, with 130 after Ctrl-C.
    """
    try:
        settings = read_settings()
        logs.configure_logging(settings.log_level)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.get_loop().set_exception_handler(logs.log_unhandled)
            runner.run(process(settings))
    except SettingsError as error:
        logs.print_error(f"runengine-server: {error}")
        sys.exit(1)
    except ChildFailed:
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
