"""The event loop on which all runs are executed, on a thread of its own: tests have theirs."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from runengine_server import logs
from runengine_server.database.database import Database
from runengine_server.processes.shared_postgres import shared_postgres

from tests.compat.playing import Player

Result = TypeVar("Result")


class EngineThread:
    """A PostgreSQL, connections to it, and the loop of both."""

    def __enter__(self) -> Self:
        logs.log_by_logging()
        self._directory = tempfile.TemporaryDirectory(prefix="runengine-compat-")
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self.start(self._open()).result()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.start(self._database.close()).result()
        self._directory.cleanup()

    def start(self, work: Coroutine[Any, Any, Result]) -> Future[Result]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def new_player(self) -> Player:
        return Player(self._database, Path(self._directory.name))

    async def _open(self) -> None:
        self._database = Database(await shared_postgres(), 10, process="compat")
        await self._database.open()
