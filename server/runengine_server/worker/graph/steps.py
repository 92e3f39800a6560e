"""The steps that one execution of a run has begun."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from uuid import UUID, uuid5

from langchain_core.runnables import RunnableConfig
from langgraph._internal._constants import CONFIG_KEY_CHECKPOINT_NS, CONFIG_KEY_TASK_ID, NS_SEP
from langgraph.types import RetryPolicy

# The key in a node's config under which its step is found, as that of its Execution. None in a graph within
# a node whose own nodes are not recorded; absent in the top graph.
STEP = "__runengine_step"


def is_part_of_another(config: RunnableConfig) -> bool:
    """Whether what is executed with that config is no step, but part of the one that calls its graph."""
    return config["configurable"].get(STEP, config) is None


class BegunStep:
    """An execution of a step: `attempt` is 0 until it is recorded, `parent` the execution of the step whose
    node has called the graph that this one's node is in, None at the top. `open` has the executions within it
    that may still write, by the ids of their steps. Its node is `over` once it has returned or raised, or was
    stopped, and has `returned` when nothing but its record is left.
    """

    __slots__ = ("attempt", "id", "is_failed", "is_over", "name", "open", "parent", "policies", "returned")

    def __init__(
        self, id_: UUID, name: str, parent: BegunStep | None = None, policies: Sequence[RetryPolicy] = ()
    ) -> None:
        self.id = id_
        self.name = name
        self.parent = parent
        self.policies = policies
        self.attempt = 0
        self.is_failed = self.is_over = self.returned = False
        self.open: dict[UUID, BegunStep] = {}

    @property
    def parent_id(self) -> UUID | None:
        """The id of the step that this one is within."""
        return None if self.parent is None else self.parent.id

    def around(self) -> Iterator[BegunStep]:
        """The executions that it is within, from the innermost."""
        above = self.parent
        while above is not None:
            yield above
            above = above.parent

    @property
    def is_abandoned(self) -> bool:
        """Whether it goes on although a step around it has failed or was stopped."""
        return self.parent is not None and any(each.is_over and not each.returned for each in self.around())

    def within(self) -> Iterator[BegunStep]:
        """All that is open within it."""
        for each in self.open.values():
            yield each
            yield from each.within()


def step_of_config(config: RunnableConfig, name: str, policies: Sequence[RetryPolicy]) -> BegunStep:
    """The step that the node `name`, which is executed with that config, is an execution of."""
    configurable = config["configurable"]
    # Not execution_info.task_id: for an error handler that is the task whose error it handles.
    task_id = UUID(configurable[CONFIG_KEY_TASK_ID])
    parent: BegunStep | None = configurable.get(STEP)
    if parent is None:
        return BegunStep(task_id, name, policies=policies)
    return BegunStep(_id_within(parent, config), f"{parent.name}:{name}", parent, policies)


def _id_within(parent: BegunStep, config: RunnableConfig) -> UUID:
    """The same in each execution of the parent: made of the place in it, because the id of the task is
    another one when a graph without checkpoints starts anew. The part of the namespace before the last counts
    the graphs that one execution of a node calls.
    """
    namespace: str = config["configurable"][CONFIG_KEY_CHECKPOINT_NS]
    metadata = config["metadata"]
    before = namespace.split(NS_SEP)[-2:-1]
    count = before[0] if before and before[0].isdigit() else ""
    node, step, path = (metadata[f"langgraph_{key}"] for key in ("node", "step", "path"))
    return uuid5(parent.id, f"{count}|{node}|{step}|{path}")
