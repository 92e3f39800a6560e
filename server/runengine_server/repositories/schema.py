"""All that the database keeps as functions for this version of the server."""

from __future__ import annotations

from runengine_server.repositories import (
    artifact_repository,
    campaign_repository,
    disk_space,
    held_run_repository,
    queue_repository,
    run_repository,
    workflow_repository,
)

FUNCTIONS = (
    *run_repository.FUNCTIONS,
    *campaign_repository.FUNCTIONS,
    *artifact_repository.FUNCTIONS,
    *held_run_repository.FUNCTIONS,
    *queue_repository.FUNCTIONS,
    *workflow_repository.FUNCTIONS,
    *disk_space.FUNCTIONS,
)
