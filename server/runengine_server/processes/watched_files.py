"""Which files the workflows are made of, and when they change."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from watchfiles import Change, DefaultFilter, awatch

from runengine_server.settings import SettingsError

_is_worth_a_look = DefaultFilter(ignore_dirs=(*DefaultFilter.ignore_dirs, "site-packages"))


class WatchedFiles:
    """The .py files below the directories where the workflows may lie, each langgraph.json, and its `env`.

    `directories` are the current one, that of each langgraph.json with those among its `dependencies`, and
    that of each module which lies elsewhere and is not installed. What is below a hidden directory, or an
    environment of Python, is not watched: that has thousands of directories, and PostgreSQL writes all the
    time.
    """

    def __init__(self, workflows: Sequence[str]) -> None:
        found = [Path.cwd()]
        self._named: set[Path] = set()
        for entry in workflows:
            if entry.endswith(".json"):
                path = Path(entry).resolve()
                described = _described(path)
                found += [path.parent, *(path.parent / each for each in described.get("dependencies", ()))]
                self._named |= {path, path.parent / str(described.get("env"))}
            else:
                found += _places_of_module(entry)
        there = dict.fromkeys(each.resolve() for each in found if each.is_dir())
        self.directories = [each for each in there if not any(above in there for above in each.parents)]

    async def watch(self, on_change: Callable[[set[Path]], object]) -> None:
        """Calls `on_change` with the files of each change, until this is cancelled. Raises SettingsError when
        the system does not allow so many.
        """
        try:
            while True:
                await self._watch_what_is_there(on_change)
        except OSError as error:
            raise SettingsError(
                f"cannot watch {', '.join(map(str, self.directories))} ({error}); start in the directory of "
                "the workflows alone, or set WATCHFILES_FORCE_POLLING=true"
            ) from error

    async def _watch_what_is_there(self, on_change: Callable[[set[Path]], object]) -> None:
        """Returns once there is a new directory."""
        below = [each for directory in self.directories for each in directory.iterdir() if _is_watched(each)]
        telling = [
            asyncio.create_task(self._tell(self.directories, on_change, recursive=False)),
            asyncio.create_task(self._tell(below, on_change, recursive=True)),
        ]
        try:
            done, _ = await asyncio.wait(telling, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in telling:
                each.cancel()
            await asyncio.gather(*telling, return_exceptions=True)
        for each in done:
            each.result()

    async def _tell(
        self, paths: Sequence[Path], on_change: Callable[[set[Path]], object], *, recursive: bool
    ) -> None:
        if not paths:
            await asyncio.Event().wait()
        async for changes in awatch(*paths, watch_filter=self._matters, recursive=recursive):
            changed = {Path(path) for _, path in changes}
            on_change(changed)
            if not recursive and any(map(_is_watched, changed)):
                return

    def _matters(self, change: Change, name: str) -> bool:
        path = Path(name)
        if path in self._named:
            return True
        is_new_directory = change is Change.added and path.parent in self.directories and _is_watched(path)
        return is_new_directory or (path.suffix == ".py" and _is_worth_a_look(change, name))


def _is_watched(path: Path) -> bool:
    is_environment = (path / "pyvenv.cfg").exists()
    return (
        path.is_dir()
        and not path.name.startswith((".", "__pycache__", "node_modules"))
        and not is_environment
    )


def _described(path: Path) -> dict[str, Any]:
    """What a langgraph.json has, or nothing: the worker says what is wrong with it."""
    try:
        described = json.loads(path.read_text())
        dependencies = [each for each in described.get("dependencies", ()) if isinstance(each, str)]
        return {**described, "dependencies": dependencies}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def _places_of_module(entry: str) -> list[Path]:
    spec = PathFinder.find_spec(entry.partition(":")[0].partition(".")[0])
    if spec is None:
        return []
    is_package = spec.submodule_search_locations is not None
    places = spec.submodule_search_locations if is_package else [str(Path(spec.origin or "").parent)]
    return [Path(each) for each in places or () if "site-packages" not in Path(each).parts]
