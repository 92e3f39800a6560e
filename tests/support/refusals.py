"""The refusal of a call by gRPC and by REST, all of it that a caller may see."""

from __future__ import annotations

import uuid
from typing import Any, NamedTuple

import grpc
import httpx
import pytest
from google.rpc import error_details_pb2, status_pb2
from runengine.v1 import run_service_pb2, run_service_pb2_grpc

_NO_RUN = str(uuid.uuid4())


class Answer(NamedTuple):
    """All of it that a caller may see. To a run that does not exist."""

    reason: str
    code: object
    rest: object


async def grpc_answer(channel: grpc.aio.Channel, metadata: list[tuple[str, str]]) -> Answer:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await run_service_pb2_grpc.RunServiceStub(channel).GetRun(
            run_service_pb2.GetRunRequest(run_id=_NO_RUN), metadata=metadata
        )
    trailers = tuple(failed.value.trailing_metadata())
    (status,) = (value for key, value in trailers if key == "grpc-status-details-bin")
    info = error_details_pb2.ErrorInfo()
    assert status_pb2.Status.FromString(status).details[0].Unpack(info)
    return Answer(info.reason, failed.value.code(), (failed.value.details(), trailers))


async def rest_answer(rest: httpx.AsyncClient, headers: Any) -> Answer:
    response = await rest.get(f"/runs/{_NO_RUN}", headers=headers)
    return Answer(
        response.json()["reason"], response.status_code, (response.content, tuple(response.headers.items()))
    )
