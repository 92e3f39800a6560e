"""The product through each of its doors."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import httpx
import pytest
from runengine_client import RunEngineClient

from tests.e2e.apis import Api, ClientApi, GrpcApi, RestApi
from tests.support.stack import Stack


@pytest.fixture(params=["gRPC", "REST", "client"])
async def api(
    request: pytest.FixtureRequest, stack: Stack, token: str, client: RunEngineClient, rest: httpx.AsyncClient
) -> AsyncIterator[Api]:
    if request.param == "REST":
        yield RestApi(rest)
    elif request.param == "client":
        yield ClientApi(client)
    else:
        async with grpc.aio.insecure_channel(stack.grpc_address) as channel:
            yield GrpcApi(channel, token)
