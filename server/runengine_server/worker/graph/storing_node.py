"""A node whose writes are at once what reading them back from the store would give."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable, Container, Iterable, Sequence
from copy import copy
from dataclasses import replace
from functools import partial, wraps
from typing import Any

from langchain_core.runnables import Runnable, RunnableConfig
from langgraph._internal._config import recast_checkpoint_ns
from langgraph._internal._constants import (
    CONFIG_KEY_CALL,
    CONFIG_KEY_CHECKPOINT_NS,
    CONFIG_KEY_SEND,
    TASKS,
)
from langgraph._internal._runnable import RunnableCallable, RunnableSeq
from langgraph.channels.untracked_value import UntrackedValue
from langgraph.constants import END
from langgraph.errors import ParentCommand
from langgraph.graph._branch import BranchSpec
from langgraph.pregel import Pregel
from langgraph.types import Command, Send

from runengine_server.worker.graph.channels import keep_as_stored
from runengine_server.worker.graph.due import is_edge, lead_to_nowhere, target_of
from runengine_server.worker.graph.failures import ValueNotStorable, WorkflowError, contained, raise_contained
from runengine_server.worker.graph.recorded_task import recorded
from runengine_server.worker.graph.stored_values import FLAT, as_stored
from runengine_server.worker.graph.time_limit import TimeLimit
from runengine_server.worker.graph.untraced import UntracedSequence

Future = asyncio.Future[Any] | concurrent.futures.Future[Any]
Write = tuple[str, Any]


def store_writes(
    graph: Pregel[Any, Any, Any, Any], is_top: bool = False, records_tasks: bool = False
) -> None:
    """Puts a StoringNode around each node of the graph and the edges that lead from it. `is_top`: there is no
    graph above this one; `records_tasks`: the tasks that its nodes call are steps.
    """
    keep_as_stored(graph.channels)
    untracked = untracked_channels(graph)
    for name, node in graph.nodes.items():
        if (bound := node.node) is not None and not isinstance(bound, StoringNode):
            bound = _contain(bound, is_top)
            vars(node)["node"] = StoringNode(name, bound, graph, untracked, is_top, records_tasks)


class _Contained(Runnable[Any, Any]):
    """A node of a graph within another. LangGraph executes it as an asyncio task of its own, and a task that
    ends with a SystemExit ends the event loop (langgraph 1.2.24, `RunnableSeq.ainvoke`).
    """

    def __init__(self, bound: Runnable[Any, Any]) -> None:
        self.bound = bound

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002
        return self.bound.invoke(input, config, **kwargs)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002
        return await contained(self.bound.ainvoke(input, config, **kwargs))


def _contain(node: Runnable[Any, Any], is_top: bool) -> Runnable[Any, Any]:
    sequence = node.bound if isinstance(node, TimeLimit) else node
    if not isinstance(sequence, RunnableSeq):
        return node
    steps = [_contained_edge(step) for step in sequence.steps]
    if not is_top:  # a node at the top contains itself: see RecordedNode
        steps[0] = _Contained(steps[0])
    untraced = UntracedSequence(sequence, steps)
    if not isinstance(node, TimeLimit):
        return untraced
    node.bound = untraced
    return node


def _contained_edge(step: Any) -> Any:
    """A conditional edge whose function is contained: that too is executed as an asyncio task of its own
    (`RunnableCallable.ainvoke`). Other steps as they are.
    """
    branch = getattr(getattr(step, "func", None), "__self__", None)
    if not isinstance(branch, BranchSpec) or not isinstance(branch.path, RunnableCallable):
        return step
    choose = branch.path.afunc
    if choose is None:
        return step

    @wraps(choose)
    async def contained_choose(*arguments: Any, **named: Any) -> Any:
        return await contained(choose(*arguments, **named))

    path, edge = copy(branch.path), copy(step)
    path.afunc = contained_choose
    branch = branch._replace(path=path)
    edge.func, edge.afunc = branch._route, branch._aroute
    return edge


def untracked_channels(graph: Pregel[Any, Any, Any, Any]) -> frozenset[str]:
    """The channels of the graph that are in no checkpoint."""
    return frozenset(name for name, each in graph.channels.items() if isinstance(each, UntrackedValue))


class StoringNode(Runnable[Any, Any]):
    """Executes `bound`, a node with its edges, of that graph. What it writes, what its tasks return, and its
    Commands to a graph above go through as_stored; values for channels that are not stored stay as they are.
    """

    def __init__(
        self,
        name: str,
        bound: Runnable[Any, Any],
        graph: Pregel[Any, Any, Any, Any],
        untracked: frozenset[str],
        is_top: bool,
        records_tasks: bool,
    ) -> None:
        self.name = name
        self.bound = bound
        self._nodes: Container[str] = graph.nodes
        self._untracked = untracked
        self._is_top = is_top
        self._records_tasks = records_tasks

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002
        """As ainvoke."""
        assert config is not None
        try:
            return self.bound.invoke(input, self._storing(config, is_async=False), **kwargs)
        except ParentCommand as above:
            self._pass_on(above, config)
            raise

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002
        """What `bound` returns. Raises ValueNotStorable, and WorkflowError for a Command to a graph above
        where there is none.
        """
        assert config is not None
        try:
            return await self.bound.ainvoke(input, self._storing(config, is_async=True), **kwargs)
        except ParentCommand as above:
            self._pass_on(above, config)
            raise
        except BaseException as error:
            raise_contained(error)
            raise

    def _storing(self, config: RunnableConfig, *, is_async: bool) -> RunnableConfig:
        configurable = config["configurable"]
        given = {**configurable, CONFIG_KEY_SEND: partial(self._write, configurable[CONFIG_KEY_SEND])}
        if (call := configurable.get(CONFIG_KEY_CALL)) is not None:
            record = partial(recorded, is_async=is_async) if self._records_tasks else None
            given[CONFIG_KEY_CALL] = partial(_call, call, record)
        return {**config, "configurable": given}

    def _write(self, send: Callable[[Sequence[Write]], None], writes: Sequence[Write]) -> None:
        if not self._is_top:
            self.check_targets(target_of(channel) for channel, _ in writes if is_edge(channel))
        if not all(type(value) in FLAT for _, value in writes):
            writes = [(channel, self.as_stored(channel, value)) for channel, value in writes]
        send(writes)

    def as_stored(self, channel: str, value: Any) -> Any:
        """The value that is written to the channel in place of `value`."""
        if value is None or channel in self._untracked:
            return value
        if channel == TASKS and isinstance(value, Send):
            if not self._is_top:
                self.check_targets([value])
            return self._sent(value)
        return as_stored(value, channel)

    def check_targets(self, targets: Iterable[str | Send]) -> None:
        """Raises WorkflowError for a node that the graph does not have: LangGraph leaves it out. Of the graph
        at the top the checkpointer looks, once no policy executes the node again.
        """
        for each in targets:
            target = each.node if isinstance(each, Send) else each
            if target != END and target not in self._nodes:
                raise WorkflowError(lead_to_nowhere(self.name, target, is_send=isinstance(each, Send)))

    def _sent(self, send: Send) -> Send:
        key = f"Send to {send.node}"
        if type(send.arg) is dict:
            arg = {
                name: each if name in self._untracked else as_stored(each, f"{key}: {name}")
                for name, each in send.arg.items()
            }
        else:
            arg = as_stored(send.arg, key)
        return Send(send.node, arg, timeout=send.timeout)

    def _pass_on(self, above: ParentCommand, config: RunnableConfig) -> None:
        command: Command[Any] = above.args[0]
        namespace: str = config["configurable"][CONFIG_KEY_CHECKPOINT_NS]
        here = command.graph in (namespace, recast_checkpoint_ns(namespace), self.name)
        if self._is_top and not here:
            words = f"{self.name!r} returned a Command to the graph above, and there is none."
            raise WorkflowError(words) from None
        update, goto = command.update, command.goto
        if isinstance(update, dict):
            update = {name: self.as_stored(name, each) for name, each in update.items()}
        elif isinstance(update, list | tuple) and all(_is_pair(each) for each in update):
            update = [(name, self.as_stored(name, each)) for name, each in update]
        if here and not self._is_top:
            self.check_targets([goto] if isinstance(goto, str | Send) else goto)
        if isinstance(goto, Send):
            goto = self._sent(goto)
        elif not isinstance(goto, str):
            goto = [self._sent(each) if isinstance(each, Send) else each for each in goto]
        above.args = (replace(command, update=update, goto=goto),)


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str)


def _call(
    call: Callable[..., Future],
    record: Callable[..., Callable[..., Any]] | None,
    function: Callable[..., Any],
    *rest: Any,
    **named: Any,
) -> Future:
    """Calls a task (`@task`): its result is stored too, and read back when the node runs again. One that is
    recorded is a step, and has the engine's cache.
    """
    if record is not None:
        function = record(function, named.get("retry_policy"), named.pop("cache_policy", None))
    return _returning(call(function, *rest, **named))


def _returning(call: Future) -> Future:
    returned: Future = (
        asyncio.Future(loop=call.get_loop()) if isinstance(call, asyncio.Future) else type(call)()
    )

    def settle(done: Future) -> None:
        if returned.cancelled():
            return
        if done.cancelled():
            returned.cancel()
        elif (error := done.exception()) is not None:
            returned.set_exception(error)
        else:
            try:
                returned.set_result(as_stored(done.result(), "the result of a task"))
            except ValueNotStorable as refused:
                returned.set_exception(refused)

    def cancel(future: Future) -> None:
        if future.cancelled():
            call.cancel()

    call.add_done_callback(settle)
    returned.add_done_callback(cancel)
    return returned
