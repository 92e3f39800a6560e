"""A worker that is replaced when the files of the workflows change."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from pathlib import Path

import structlog

from runengine_server.processes.children import Child, ChildFailed
from runengine_server.processes.watched_files import WatchedFiles

# With it the worker has said in one line why it does not start.
_REFUSED = 1

# How many of the files that changed are named.
_MAX_NAMED = 5

_log = structlog.get_logger()


class ReloadedWorker:
    """One worker at a time, except that the next one starts before the last one is told to stop: while it
    cannot, because the files are wrong, the last one goes on. `children` has those that run.
    """

    def __init__(self, files: WatchedFiles, environment: dict[str, str], children: list[Child]) -> None:
        self._files = files
        # Python takes a file that changes twice in a second, and keeps its length, for the one that it has
        # compiled.
        self._environment = {**environment, "PYTHONDONTWRITEBYTECODE": "1"}
        self._children = children
        self._worker: Child | None = None
        self._supervising: asyncio.Task[None] | None = None
        self._changed: set[Path] = set()
        self._has_changed = asyncio.Event()
        self._is_starting = False
        self.has_tried = asyncio.Event()

    @property
    def directories(self) -> list[Path]:
        """Where files are watched."""
        return self._files.directories

    async def work(self) -> None:
        """Keeps a worker running, with the files as they are, until this is cancelled. `has_tried` is set
        once the first one has started, or has not. Raises SettingsError when the files cannot be watched.
        """
        watching = asyncio.create_task(self._files.watch(self._on_change))
        reloading = asyncio.create_task(self._reload_for_ever())
        try:
            await asyncio.wait({watching, reloading}, return_when=asyncio.FIRST_COMPLETED)
            for each in (watching, reloading):
                if each.done():
                    each.result()
        finally:
            tasks = [each for each in (watching, reloading, self._supervising) if each is not None]
            for each in tasks:
                each.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _on_change(self, files: set[Path]) -> None:
        self._changed |= files
        self._has_changed.set()

    async def _reload_for_ever(self) -> None:
        while True:
            self._has_changed.clear()
            replacing = asyncio.create_task(self._replace())
            try:
                await self._has_changed.wait()
            finally:
                # One that starts may have read the files before; one that has started goes first to its end.
                if self._is_starting:
                    replacing.cancel()
                with suppress(asyncio.CancelledError):
                    await replacing

    async def _replace(self) -> None:
        began = time.monotonic()
        is_first = not self.has_tried.is_set()
        new = await self._started()
        self.has_tried.set()
        if new is None:
            return
        changed, self._changed = self._changed, set()
        old, self._worker = self._worker, new
        if self._supervising is not None:
            self._supervising.cancel()
        self._supervising = asyncio.create_task(new.supervise())
        if old is not None:
            await old.stop()
            self._children.remove(old)
        if not is_first:
            seconds = round(time.monotonic() - began, 1)
            _log.info("the workflows were reloaded", changed=_named(changed), seconds=seconds)

    async def _started(self) -> Child | None:
        """A new worker, which is ready; None where it ended before."""
        try:
            new = Child("worker", self._environment)
        except OSError as error:
            _log.error("process cannot be started", command="worker", error=type(error).__name__)
            return None
        self._children.append(new)
        self._is_starting, is_ready = True, False
        try:
            await new.until_ready()
            is_ready = True
        except ChildFailed:
            if (code := await new.until_ended()) != _REFUSED:
                _log.error("the worker does not start", exit_code=code)
            return None
        finally:
            self._is_starting = False
            if not is_ready:
                await new.stop()
                self._children.remove(new)
        return new


def _named(changed: set[Path]) -> list[str]:
    here = Path.cwd()
    names = sorted(str(each.relative_to(here) if each.is_relative_to(here) else each) for each in changed)
    return names[:_MAX_NAMED] + ["…"] * (len(names) > _MAX_NAMED)
