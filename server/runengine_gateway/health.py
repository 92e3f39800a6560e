"""The health of the gateway, and of the server behind it. Neither needs a token."""

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from runengine_gateway.channel import Channel
from runengine_gateway.problems import unavailable
from runengine_gateway.routes import Endpoint

_READY_WITHIN_SECONDS = 1.0


async def alive(request: Request) -> Response:
    """200 as long as the gateway runs, whatever the server does."""
    return JSONResponse({"status": "ok"})


def ready(channel: Channel) -> Endpoint:
    """The endpoint that returns 200 when the server's health service says SERVING in a second, else 503."""
    check = channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        request_serializer=HealthCheckRequest.SerializeToString,
        response_deserializer=HealthCheckResponse.FromString,
    )

    async def endpoint(request: Request) -> Response:
        try:
            health = await check(HealthCheckRequest(), timeout=_READY_WITHIN_SECONDS)
        except grpc.aio.AioRpcError:
            return unavailable().response()
        if health.status != HealthCheckResponse.SERVING:
            return unavailable().response()
        return JSONResponse({"status": "ok"})

    return endpoint
