"""The time limit of a node, where LangGraph has none."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Any, NoReturn

from langchain_core.runnables import Runnable, RunnableConfig
from langgraph.errors import NodeTimeoutError


class TimeLimit(Runnable[Any, Any]):
    """Executes `bound` for so many seconds at most, then cancels it, and raises NodeTimeoutError as
    LangGraph does for other nodes: of error handlers it drops the limit (langgraph 1.2.22,
    `prepare_node_error_handler_task`; its issue 8843).
    """

    def __init__(self, name: str, bound: Runnable[Any, Any], seconds: float) -> None:
        self.name = name
        self.bound = bound
        self.seconds = seconds

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> NoReturn:  # noqa: A002
        """The engine executes graphs asynchronously."""
        raise NotImplementedError

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002
        """What `bound` returns. One that ignores that it is cancelled is left behind."""
        started = time.monotonic()
        work = asyncio.ensure_future(self.bound.ainvoke(input, config, **kwargs))
        try:
            done, _ = await asyncio.wait({work}, timeout=self.seconds)
        except asyncio.CancelledError:
            _leave(work)
            raise
        if not done:
            _leave(work)
            elapsed = time.monotonic() - started
            raise NodeTimeoutError(str(self.name), elapsed, kind="run", run_timeout=self.seconds)
        return work.result()


def _leave(work: asyncio.Future[Any]) -> None:
    def forget(done: asyncio.Future[Any]) -> None:
        with suppress(BaseException):
            done.result()

    work.cancel()
    work.add_done_callback(forget)
