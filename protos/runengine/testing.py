"""Runs a workflow in a test, as a worker would, on an embedded PostgreSQL:

run = await run_workflow(graph, {"item": "kettle"})
assert run.status == "completed"
"""

from __future__ import annotations

try:
    from runengine_server.processes.workflow_runner import (
        WorkflowArtifact,
        WorkflowGate,
        WorkflowRun,
        WorkflowRunner,
        run_workflow,
        workflow_runner,
    )
except ModuleNotFoundError as error:
    raise ImportError(
        f"runengine.testing needs the server's packages, of which {error.name} is missing: "
        "pip install 'runengine[server]'"
    ) from error

__all__ = [
    "WorkflowArtifact",
    "WorkflowGate",
    "WorkflowRun",
    "WorkflowRunner",
    "run_workflow",
    "workflow_runner",
]
