"""The checkpoint saver against LangGraph's conformance suite."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any
from uuid import UUID

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.conformance.report import CapabilityResult
from runengine.v1.run_service_pb2 import TriggerRunRequest
from runengine_server.commands.trigger_run import trigger_run
from runengine_server.domain.run import NewRun
from runengine_server.worker.graph.checkpointer import FencedCheckpointer

from tests.support.own_worker import ACTOR, Engine
from tests.support.saver import claimed, saver_of


class RunOfThread:
    """Gives each thread of the suite a saver of its own, for a run of the thread's id that was queued and
    claimed like any other.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._savers: dict[str, FencedCheckpointer] = {}

    async def saver(self, thread_id: str) -> FencedCheckpointer:
        if thread_id not in self._savers:
            new = NewRun(UUID(thread_id), TriggerRunRequest(workflow_name=self._engine.workflow))
            await trigger_run(self._engine.runs, new, ACTOR, None, None)
            self._savers[thread_id] = saver_of(self._engine, await self._engine.claim())
        return self._savers[thread_id]

    def serve(self, saver: FencedCheckpointer) -> None:
        """Makes calls to `saver` go to the one of their thread. Its class stays what it is, so that the
        suite finds there what the saver can do, and not what this can.
        """

        async def aput(config: RunnableConfig, *more: Any) -> RunnableConfig:
            return await (await self._of(config)).aput(config, *more)

        async def aput_writes(config: RunnableConfig, *more: Any, **named: Any) -> None:
            await (await self._of(config)).aput_writes(config, *more, **named)

        async def aget_tuple(config: RunnableConfig) -> Any:
            return await (await self._of(config)).aget_tuple(config)

        async def alist(config: RunnableConfig, **named: Any) -> AsyncIterator[Any]:
            async for each in (await self._of(config)).alist(config, **named):
                yield each

        async def adelete_thread(thread_id: str) -> None:
            await (await self.saver(thread_id)).adelete_thread(thread_id)

        async def aprune(thread_ids: Sequence[str], **named: Any) -> None:
            for thread_id in thread_ids:
                await (await self.saver(thread_id)).aprune([thread_id], **named)

        for method in (aput, aput_writes, aget_tuple, alist, adelete_thread, aprune):
            setattr(saver, method.__name__, method)

    async def _of(self, config: RunnableConfig) -> FencedCheckpointer:
        return await self.saver(config["configurable"]["thread_id"])


@pytest.mark.parametrize(
    ("capability", "tests"),
    [("put", 17), ("put_writes", 10), ("get_tuple", 10), ("list", 16), ("delete_thread", 5), ("prune", 8)],
)
async def test_the_saver_passes_every_test_of_the_conformance_suite_for(
    engine: Engine, capability: str, tests: int
) -> None:
    @checkpointer_test(name="FencedCheckpointer")
    async def savers() -> AsyncGenerator[BaseCheckpointSaver[str], None]:
        threads = RunOfThread(engine)
        saver = saver_of(engine, await claimed(engine))
        threads.serve(saver)
        yield saver

    report = await validate(savers, capabilities={capability})
    assert report.results[capability] == CapabilityResult(True, True, tests_passed=tests)
