"""Runs as they are stored: parts of an encoded runengine.v1.Run, so that a response is made of bytes."""

from __future__ import annotations

from uuid import UUID

from google.protobuf.struct_pb2 import Struct
from runengine.v1 import run_pb2, run_service_pb2

from runengine_server.domain.run import Failure, NewRun


def encode_input(new: NewRun) -> bytes:
    """The fields of a Run that never change: its id, and those of the request, which have the same names.

    The priority is last, where `encoded_rare_response` in encoding.sql expects it.
    """
    given = {field.name: value for field, value in new.request.ListFields() if field.name != "priority"}
    priority = run_pb2.Run(priority=new.request.priority)
    return run_pb2.Run(id=str(new.id), **given).SerializeToString() + priority.SerializeToString()


def decode_input(encoded: bytes) -> tuple[Struct | None, Struct | None]:
    """(trigger payload, context) of what `encode_input` made."""
    run = run_pb2.Run.FromString(encoded)
    return (
        run.trigger_payload if run.HasField("trigger_payload") else None,
        run.context if run.HasField("context") else None,
    )


def canonical_response(encoded: bytes) -> bytes:
    """A GetRunResponse, or another with a run in its field 1, as protobuf's own encoder writes it."""
    return run_service_pb2.GetRunResponse.FromString(encoded).SerializeToString()


def encode_error(error: Failure) -> bytes:
    """A RunError."""
    return run_pb2.RunError(
        code=error.code,
        message=error.message,
        step_id=error.step_id,
        attempt=error.attempt,
        retryable=error.retryable,
    ).SerializeToString()


def failure_of(run: run_pb2.Run) -> Failure | None:
    """Why the run failed; None unless it has."""
    if not run.HasField("error"):
        return None
    error = run.error
    step_id = error.step_id if error.HasField("step_id") else None
    return Failure(error.code, error.message, step_id, error.attempt, error.retryable)


def encode_output(
    output: bytes | None = None, artifact_id: UUID | None = None, note: str | None = None
) -> bytes:
    """A GetRunOutputResponse; `output` is JSON."""
    return run_service_pb2.GetRunOutputResponse(
        output=None if output is None else output.decode(),
        artifact_id=None if artifact_id is None else str(artifact_id),
        note=note,
    ).SerializeToString()


def encode_step_input(value: bytes | None = None, note: str | None = None) -> bytes:
    """The fields of a GetRunStepDataResponse for the input of a step; `value` is JSON."""
    text = None if value is None else value.decode()
    return run_service_pb2.GetRunStepDataResponse(input=text, input_note=note).SerializeToString()


def encode_step_update(value: bytes | None = None, note: str | None = None) -> bytes:
    """As encode_step_input, for what it wrote."""
    text = None if value is None else value.decode()
    return run_service_pb2.GetRunStepDataResponse(update=text, update_note=note).SerializeToString()
