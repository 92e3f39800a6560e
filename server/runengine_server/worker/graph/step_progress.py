"""What a step tells of its progress: what its node writes to the stream writer, the tokens of chat models,
and the steps of graphs within it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler, BaseCallbackManager
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, LLMResult
from langchain_core.runnables import RunnableConfig
from langchain_core.tracers._streaming import _StreamingCallbackHandler
from langgraph._internal._constants import CONFIG_KEY_CHECKPOINT_NS
from langgraph.config import get_config
from langgraph.constants import TAG_NOSTREAM
from langgraph.errors import GraphBubbleUp
from langgraph.pregel.protocol import StreamProtocol

from runengine_server.domain.progress import ProgressEvent, ProgressKind
from runengine_server.worker.graph.namespaces import step_path
from runengine_server.worker.graph.output import to_json
from runengine_server.worker.progress import RunProgress

# The key in a node's config under which its StepProgress is found.
PROGRESS = "__runengine_progress"

# A stream that takes nothing. Where there is one, the graphs that a node calls have the node's stream writer,
# and one of their own that takes nothing otherwise.
SILENT_STREAM = StreamProtocol(lambda _: None, set())


class StepProgress:
    """The progress of one execution of a node. Whether somebody watches the run is looked up each time, since
    that may change while the node is executed.
    """

    __slots__ = ("_progress", "_task_id")

    def __init__(self, progress: RunProgress, task_id: UUID) -> None:
        self._progress = progress
        self._task_id = task_id

    @property
    def is_watched(self) -> bool:
        """Whether somebody watches the run."""
        return bool(self._progress.watchers)

    def write(self, value: Any) -> None:
        """The stream writer of the node, and of the nodes of graphs that it calls."""
        if self._progress.watchers:
            self._progress.tell(lambda: self._event(ProgressKind.CUSTOM, _namespace(), to_json(value)))

    def tell_message(self, namespace: str, message: BaseMessage) -> None:
        """Tells of a message of a chat model, or a part of it."""
        if self._progress.watchers:
            self._progress.tell(
                lambda: self._event(ProgressKind.MESSAGE, namespace, _message(message), message.id)
            )

    @contextmanager
    def of_node(self, config: RunnableConfig) -> Iterator[RunnableConfig]:
        """Tells how a node goes that is executed in the block, with the config that the block gets."""
        namespace: str = config["configurable"][CONFIG_KEY_CHECKPOINT_NS]
        tell = partial(self._tell_status, namespace)
        tell("running")
        try:
            yield {**config, "callbacks": _with_tokens(config.get("callbacks"), self)}
        except GraphBubbleUp:
            tell("waiting")
            raise
        except BaseException:
            tell("failed")
            raise
        tell("completed")

    def _tell_status(self, namespace: str, status: str) -> None:
        data = to_json({"status": status})
        self._progress.tell(lambda: self._event(ProgressKind.STEP, namespace, data))

    def _event(
        self, kind: ProgressKind, namespace: str, data: bytes, message_id: str | None = None
    ) -> ProgressEvent:
        return ProgressEvent(kind, step_path(namespace, ""), self._task_id, namespace, message_id, data)


def telling(config: RunnableConfig) -> AbstractContextManager[RunnableConfig]:
    """StepProgress.of_node of the step that a node is part of, where somebody watches its run."""
    progress: StepProgress | None = config["configurable"].get(PROGRESS)
    return nullcontext(config) if progress is None or not progress.is_watched else progress.of_node(config)


def _namespace() -> str:
    """That of the innermost node; "" in a thread of the node's own."""
    try:
        return str(get_config()["configurable"].get(CONFIG_KEY_CHECKPOINT_NS, ""))
    except RuntimeError:
        return ""


def _message(message: BaseMessage) -> bytes:
    """As JSON, without the fields that have nothing in them, as most of a token have."""
    fields = message.model_dump(serialize_as_any=True)
    return to_json({key: value for key, value in fields.items() if key == "content" or value})


def _with_tokens(callbacks: Any, progress: StepProgress) -> Any:
    given: Sequence[Any] = (
        callbacks.handlers if isinstance(callbacks, BaseCallbackManager) else callbacks or ()
    )
    if any(isinstance(each, Tokens) for each in given):
        return callbacks  # of a node above
    if isinstance(callbacks, BaseCallbackManager):
        callbacks = callbacks.copy()
        callbacks.add_handler(Tokens(progress), inherit=True)
        return callbacks
    return [*given, Tokens(progress)]


class Tokens(BaseCallbackHandler, _StreamingCallbackHandler[Any]):
    """Tells of the tokens of chat models; of a model that does not stream, of the whole message. Its second
    base makes models stream that are called by `invoke`.
    """

    run_inline = True
    ignore_agent = ignore_chain = ignore_retriever = ignore_retry = ignore_custom_event = True

    def __init__(self, progress: StepProgress) -> None:
        self._progress = progress
        # By LangChain's id of a call: the namespace of the node that makes it; and those that have streamed.
        self._calls: dict[UUID, str] = {}
        self._streamed: set[UUID] = set()

    def tap_output_aiter(self, run_id: UUID, output: Any) -> Any:
        """Part of the second base."""
        return output

    def tap_output_iter(self, run_id: UUID, output: Any) -> Any:
        """Part of the second base."""
        return output

    def on_chat_model_start(
        self,
        serialized: dict[str, Any],
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Remembers where the call is made, unless it is tagged so as not to be streamed."""
        if TAG_NOSTREAM not in (tags or ()):
            self._calls[run_id] = str((metadata or {}).get("langgraph_checkpoint_ns", ""))

    def on_llm_new_token(
        self, token: str | list[str | dict[str, Any]], *, chunk: Any = None, run_id: UUID, **kwargs: Any
    ) -> None:
        """Tells of a part of a message."""
        namespace = self._calls.get(run_id)
        if namespace is not None and isinstance(chunk, ChatGenerationChunk):
            self._streamed.add(run_id)
            self._progress.tell_message(namespace, chunk.message)

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        """Tells of the whole message, where there were no parts of it."""
        namespace = self._calls.pop(run_id, None)
        if run_id in self._streamed or namespace is None:
            self._streamed.discard(run_id)
            return
        for generation in response.generations[0][:1] if response.generations else ():
            if isinstance(generation, ChatGeneration):
                self._progress.tell_message(namespace, generation.message)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """Forgets the call."""
        self._calls.pop(run_id, None)
        self._streamed.discard(run_id)
