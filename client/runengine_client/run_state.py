"""What is known of a run that is watched: itself, and its steps by the node that they are of."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from google.protobuf.timestamp_pb2 import Timestamp
from runengine.v1.run_pb2 import Run, RunEvent, RunStatus, RunStep, StepStatus
from runengine.v1.workflow_service_pb2 import Workflow

from runengine_client.run_watches import TERMINAL

PENDING, RUNNING, COMPLETED, FAILED, SKIPPED = (
    StepStatus.STEP_STATUS_PENDING,
    StepStatus.STEP_STATUS_RUNNING,
    StepStatus.STEP_STATUS_COMPLETED,
    StepStatus.STEP_STATUS_FAILED,
    StepStatus.STEP_STATUS_SKIPPED,
)


@dataclass
class NodeState:
    """All steps of one node: of a loop, or of a node that runs many times side by side, there are many."""

    name: str
    depth: int
    total: int = 0
    counts: Counter[StepStatus.ValueType] = field(default_factory=Counter)
    cached: int = 0
    attempts: int = 1
    """The greatest attempt of any."""
    duration_ms: int | None = None
    """Of the last that ended."""
    since: Timestamp | None = None
    """When the first of those that are running began."""
    is_waiting: bool = False

    def add(self, step: RunStep) -> None:
        """Counts one of its steps."""
        self.total += 1
        self.counts[step.status] += 1
        self.cached += step.cache_hit
        self.attempts = max(self.attempts, step.attempt)
        if step.HasField("duration_ms"):
            self.duration_ms = step.duration_ms
        if step.status == RUNNING and (
            self.since is None or step.created_at.ToNanoseconds() < self.since.ToNanoseconds()
        ):
            self.since = step.created_at


class Clock:
    """The time of the server, as far as what it sends tells: this machine's clock may be behind."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def hear(self, at: Timestamp) -> None:
        """It was that time when the server sent something."""
        self._ahead = max(self._ahead, at.ToNanoseconds() / 1e9 - time.time())

    def milliseconds_since(self, at: Timestamp) -> int:
        """How long ago it was, at least 0."""
        return max(0, round((time.time() + self._ahead) * 1000 - at.ToMilliseconds()))


class RunState:
    """A run and its steps. `version` grows with each change."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.steps: dict[str, RunStep] = {}
        self.said: deque[tuple[str, str]] = deque(maxlen=3)
        """The last that its nodes told: a node, and a line."""
        self.to_come: list[str] = []
        """The nodes of its graph in their order, as far as they are known."""
        self.version = 0
        self._nodes: tuple[int, list[NodeState]] = (-1, [])

    @property
    def has_ended(self) -> bool:
        """Whether it stays as it is."""
        return self.run.status in TERMINAL

    def set_run(self, run: Run) -> None:
        """The run is like this now."""
        self.run = run
        self.version += 1

    def set_step(self, step: RunStep) -> None:
        """A step is like this now."""
        self.steps[step.id] = step
        self.version += 1

    def add_event(self, event: RunEvent) -> None:
        """The run has changed. What it waits for has to be asked for."""
        run = self.run
        run.status, run.attempt = event.to_status, event.attempt
        run.updated_at.CopyFrom(event.at)
        del run.waiting_for[:]
        if event.to_status == RunStatus.RUN_STATUS_QUEUED:
            for name in ("started_at", "completed_at", "duration_ms", "error"):
                run.ClearField(name)
        elif event.to_status == RunStatus.RUN_STATUS_RUNNING:
            if event.from_status == RunStatus.RUN_STATUS_QUEUED:
                run.started_at.CopyFrom(event.at)
        else:
            run.completed_at.CopyFrom(event.at)
            if run.HasField("started_at"):
                run.duration_ms = event.at.ToMilliseconds() - run.started_at.ToMilliseconds()
            if event.HasField("error"):
                run.error.CopyFrom(event.error)
        self.version += 1

    def nodes(self) -> list[NodeState]:
        """Those that have begun in the order in which they did, those within another after it; then, until
        the run has ended, those that are to come.
        """
        if self._nodes[0] != self.version:
            self._nodes = self.version, self._grouped()
        return self._nodes[1]

    def failures(self) -> list[RunStep]:
        """The steps that have failed, and are not within a step that has; the last first."""
        failed = {step.id: step for step in self.steps.values() if step.HasField("error")}
        parents = {step.parent_step_id for step in failed.values()}
        return [step for step in reversed(failed.values()) if step.id not in parents]

    def _grouped(self) -> list[NodeState]:
        groups: dict[tuple[str, ...], NodeState] = {}
        paths: dict[str, tuple[str, ...]] = {}
        within: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
        waits = {each.step_id for each in self.run.waiting_for}
        for step in self.steps.values():
            outer = paths.get(step.parent_step_id, ())
            name = step.step_id.rpartition(":")[2] if outer else step.step_id
            path = paths[step.id] = (*outer, name)
            if path not in groups:
                groups[path] = NodeState(name, len(outer))
                within.setdefault(outer, []).append(path)
            groups[path].add(step)
            groups[path].is_waiting |= step.step_id in waits and step.status in (RUNNING, PENDING)
        found: list[NodeState] = []

        def walk(outer: tuple[str, ...]) -> None:
            for path in within.get(outer, ()):
                found.append(groups[path])
                walk(path)

        walk(())
        named = {step.step_id for step in self.steps.values()}
        known = {*named, *(name.partition(":")[0] for name in named)}
        found += [NodeState(name, 0, 1, is_waiting=True) for name in sorted(waits - known)]
        if not self.has_ended:
            found += [NodeState(name, 0) for name in self.to_come if name not in known | waits]
        return found


def in_order(workflow: Workflow) -> list[str]:
    """The nodes of the graph itself, from its start on, and those that no edge leads to last."""
    names = [node.id for node in workflow.nodes if ":" not in node.id]
    found: dict[str, None] = {}
    reached: Iterable[str] = ["__start__"]
    while reached := [name for name in dict.fromkeys(reached) if name not in found]:
        found.update(dict.fromkeys(reached))
        reached = [edge.target for name in reached for edge in workflow.edges if edge.source == name]
    ordered = [name for name in found if name in names]
    ordered += [name for name in names if name not in found]
    return [name for name in ordered if not name.startswith("__")]
